from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_lexicon import WORDS

from qwen3_audio.engine.tokenizer import TextTokenizer
from training.tts.lexicon import Lexicon
from training.tts.vocabulary import (
    ADDED,
    SPACE,
    Vocabulary,
    build_vocabulary,
    split_contraction,
    write_vocabulary,
)

pytestmark = pytest.mark.slow  # of the training, not of the product


@pytest.fixture(scope="module")
def product(lexicon: Lexicon, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(folder, lexicon.vocabulary)
    return TextTokenizer(folder)


@pytest.mark.parametrize("word", WORDS)
def test_a_known_word_is_one_token_in_every_spelling(lexicon: Lexicon, word: str) -> None:
    for text in (word, word.lower(), word[0].upper() + word[1:]):
        ids = lexicon.vocabulary.encode(text)
        assert len(ids) == len(split_contraction(word))


def test_roles_are_one_token_each_as_the_official_prompt_code_wants(lexicon: Lexicon) -> None:
    assert len(lexicon.vocabulary.encode("assistant")) == 1
    assert len(lexicon.vocabulary.encode("user")) == 1


@given(st.text(max_size=40))
def test_the_product_reads_the_files_as_training_does(
    lexicon: Lexicon, product: TextTokenizer, text: str
) -> None:
    assert product.encode(text) == lexicon.vocabulary.encode(text)


def test_control_tokens_stand_behind_all_others(lexicon: Lexicon, product: TextTokenizer) -> None:
    vocabulary = lexicon.vocabulary
    assert [product.special(name) for name in ADDED] == list(vocabulary.added_ids.values())
    assert max(vocabulary.added_ids.values()) < vocabulary.size


def test_a_capital_is_a_copy_of_the_small_word(lexicon: Lexicon) -> None:
    vocabulary, aliases = lexicon.vocabulary, lexicon.vocabulary.aliases()
    assert aliases[vocabulary.ids["Hello"]] == vocabulary.ids["hello"]
    assert aliases[vocabulary.ids["hello"]] == vocabulary.ids["hello"]


def test_bytes_of_other_scripts_are_copies_of_the_space(lexicon: Lexicon) -> None:
    vocabulary, aliases = lexicon.vocabulary, lexicon.vocabulary.aliases()
    assert {aliases[i] for i in vocabulary.encode("é好")} == {vocabulary.ids[SPACE]}


def test_a_vocabulary_survives_the_disk(lexicon: Lexicon, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(lexicon.vocabulary.to_json(), encoding="utf-8")
    assert Vocabulary.from_json(path.read_text("utf-8")) == lexicon.vocabulary


def test_the_same_words_in_any_order_make_the_same_vocabulary() -> None:
    assert build_vocabulary(WORDS) == build_vocabulary(reversed(WORDS))
