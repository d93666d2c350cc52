"""The tokenizer on small vocabularies in every form they come in, whole and damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.errors import StartError
from qwen3_audio.random_weights.vocabulary import (
    REAL_ASR_ADDED,
    Vocabulary,
    build_word_vocabulary,
    write_vocabulary,
)

VOCABULARY = build_word_vocabulary((), REAL_ASR_ADDED)
CONTROLS = ("<|im_start|>", "<|im_end|>", "<|audio_pad|>", "<|endoftext|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_vocabulary(folder, VOCABULARY, {})
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return TextTokenizer(folder)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder of its own to break."""
    write_vocabulary(tmp_path, VOCABULARY, {})
    return tmp_path


def words(tokenizer: TextTokenizer, text: str) -> list[str]:
    return [tokenizer.decode([id_]) for id_ in tokenizer.encode(text)]


def test_a_word_of_the_vocabulary_is_one_token(tokenizer: TextTokenizer) -> None:
    for word in ("the", "people", "assistant", "CUDA"):
        assert tokenizer.encode(word) == [VOCABULARY.tokens[word]]


def test_the_split_is_qwens_own(tokenizer: TextTokenizer) -> None:
    """Letters, digits, marks and line ends are never joined; letters of any case are one word."""
    assert words(tokenizer, "42") == ["4", "2"]
    assert words(tokenizer, "the.of") == ["the", ".", "of"]
    assert words(tokenizer, "the\nof") == ["the", "\n", "of"]
    assert words(tokenizer, "the4of") == ["the", "4", "of"]
    assert words(tokenizer, "PostgreSQL") == ["Post", "gre", "SQL"]


def test_composed_and_decomposed_letters_are_the_same_text(tokenizer: TextTokenizer) -> None:
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("caf\u00e9")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_every_text_comes_back(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == normalize("NFC", text)


def test_control_strings_in_a_text_are_ordinary_text(tokenizer: TextTokenizer) -> None:
    for name in (*CONTROLS, "<asr_text>"):
        ids = tokenizer.encode(f"the {name} water")
        assert tokenizer.special(name) not in ids
        assert tokenizer.decode(ids) == f"the {name} water"


def test_added_tokens_have_the_ids_of_the_checkpoint(tokenizer: TextTokenizer) -> None:
    for name, id_ in VOCABULARY.added_ids.items():
        assert tokenizer.special(name) == id_


def test_an_added_token_that_is_missing_stops_the_start(tokenizer: TextTokenizer) -> None:
    with pytest.raises(StartError, match=r"no token <\|nothing\|>"):
        tokenizer.special("<|nothing|>")


def test_control_tokens_are_left_out_and_tags_stay(tokenizer: TextTokenizer) -> None:
    ids = [
        tokenizer.special("<|im_start|>"),
        *tokenizer.encode("language None"),
        tokenizer.special("<asr_text>"),
        *tokenizer.encode("the water"),
        tokenizer.special("<|endoftext|>"),
    ]
    assert tokenizer.decode(ids) == "language None<asr_text>the water"


def test_half_a_character_is_a_replacement_until_the_rest_comes(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("the 水")
    assert tokenizer.decode(ids) == "the 水"
    assert tokenizer.decode(ids[:-1]) == "the \ufffd"


def test_ids_beyond_the_vocabulary_are_no_text(tokenizer: TextTokenizer) -> None:
    padding = max(VOCABULARY.added_ids.values()) + 5
    assert tokenizer.decode([*tokenizer.encode("the"), padding]) == "the"
    assert tokenizer.decode([]) == ""


def test_line_ends_of_another_system_change_nothing(
    damaged: Path, tokenizer: TextTokenizer
) -> None:
    merges = damaged / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))
    assert TextTokenizer(damaged).encode("the water") == tokenizer.encode("the water")


def test_merges_without_a_version_line_are_whole(damaged: Path, tokenizer: TextTokenizer) -> None:
    merges = damaged / "merges.txt"
    merges.write_text(merges.read_text("utf-8").partition("\n")[2], "utf-8")
    assert TextTokenizer(damaged).encode("the water") == tokenizer.encode("the water")


def test_only_the_first_line_is_about_the_version(tmp_path: Path) -> None:
    letters = {letter: id_ for letter, id_ in VOCABULARY.tokens.items() if len(letter) == 1}
    merges = [("!", "!"), *(("#version"[:end], "#version:"[end]) for end in range(1, 9))]
    tokens = letters | {a + b: len(letters) + at for at, (a, b) in enumerate(merges)}
    write_vocabulary(tmp_path, Vocabulary(tokens, merges, REAL_ASR_ADDED), {})
    text = (tmp_path / "merges.txt").read_text("utf-8")
    assert text.endswith("\n#version :\n")
    tokenizer = TextTokenizer(tmp_path)
    tokenizer._bpe.pre_tokenizer = None  # it never hands letters and marks to the same merges
    assert tokenizer.encode("#version:") == [tokens["#version:"]]


@pytest.mark.parametrize("as_pairs", [True, False])
def test_a_folder_with_one_tokenizer_file_gives_the_same_ids(
    tmp_path: Path, tokenizer: TextTokenizer, as_pairs: bool
) -> None:
    write_single(tmp_path, as_pairs=as_pairs)
    single = TextTokenizer(tmp_path)
    text = "language <asr_text> PostgreSQL 水 42"
    assert single.encode(text) == tokenizer.encode(text)
    ids = [single.special("<|im_end|>"), single.special("<asr_text>")]
    assert single.decode(ids) == "<asr_text>"


def write_single(folder: Path, *, as_pairs: bool = True) -> None:
    merges = [list(pair) if as_pairs else " ".join(pair) for pair in VOCABULARY.merges]
    added = [
        {"id": id_, "content": text, "special": text != "<asr_text>"}
        for text, id_ in VOCABULARY.added_ids.items()
    ]
    model = {"type": "BPE", "vocab": VOCABULARY.tokens, "merges": merges}
    config = {"version": "1.0", "added_tokens": added, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(config), "utf-8")


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("vocab.json", lambda path: path.unlink()),
        ("merges.txt", lambda path: path.unlink()),
        ("tokenizer_config.json", lambda path: path.unlink()),
        ("vocab.json", lambda path: path.write_bytes(path.read_bytes()[:500])),
        ("vocab.json", lambda path: path.write_text("[]")),
        ("vocab.json", lambda path: path.write_bytes(b"\xff\xfe\x00")),
        ("merges.txt", lambda path: path.write_bytes(b"\xff\xfe\x00")),
        ("merges.txt", lambda path: path.write_text("#version: 0.2\nt h\nt\n")),
        ("merges.txt", lambda path: path.write_text("#version: 0.2\nx yz zz\n")),
        ("merges.txt", lambda path: path.write_text("#version: 0.2\nq zzzz\n")),
        ("tokenizer_config.json", lambda path: path.write_text("{")),
    ],
)
def test_a_damaged_file_stops_the_start_by_its_name(
    damaged: Path, name: str, damage: Damage
) -> None:
    damage(damaged / name)
    with pytest.raises(StartError) as error:
        TextTokenizer(damaged)
    assert str(damaged / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"model": {"type": "Unigram", "vocab": []}}',
        '{"model": {"type": "BPE"}}',
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}, "added_tokens": []}',
    ],
)
def test_a_damaged_single_file_stops_the_start_by_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(StartError, match=r"tokenizer\.json"):
        TextTokenizer(tmp_path)
