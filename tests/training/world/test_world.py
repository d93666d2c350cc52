"""One world for both pocket models: words, sentences, and what is held out of training."""

import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.world import grammar
from training.world.espeak import spoken_form
from training.world.grammar import is_held_out, sentence, split_sentences, utterance
from training.world.numbers import number_words
from training.world.words import (
    all_words,
    categories,
    entries,
    forms,
    homophone_sets,
    normalise,
    plain_words,
)

pytestmark = pytest.mark.slow  # of the training, not of the product

ROOT = Path(__file__).parents[3]
KNOWN = {word.lower() for word in all_words()}
FOREIGN = {"Guten Tag."}  # an example of another language
SPOKEN_PATTERNS = (
    r'"input": "([^"]+)"',
    r'\binput="([^"]+)"',
    r"-F [\"']?input=([^\"'@]+)[\"']",
    r"audio_sample_text=([^\"'@]+)[\"']",
    r'qwen3-audio say "([^"]+)"',
    r'\btts\("([^"]+)"',
    r'batch\(\["([^"]+)", "([^"]+)"\]',
    r'TEXT = "([^"]+)"',
    r'else "([A-Z][^"]+\.)"',
)
seeds = st.integers(0, 2**32).map(Random)


def spoken_examples() -> list[str]:
    """Whatever README, documents and examples let a server speak."""
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").iterdir()]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    found = [match for text in texts for p in SPOKEN_PATTERNS for match in re.findall(p, text)]
    flat = [part for match in found for part in ([match] if isinstance(match, str) else match)]
    return sorted({text for text in flat if " " in text} - FOREIGN)


def words_of_example(text: str) -> list[str]:
    """As a front end would read it out: hyphens are spaces, digits are numbers."""
    pieces = re.findall(r"[A-Za-z']+|\d+", text)
    spelt = (number_words(int(piece)) if piece.isdigit() else piece for piece in pieces)
    return " ".join(spelt).lower().split()


def test_there_are_two_thousand_words_and_none_of_the_first_model_is_lost() -> None:
    assert len(KNOWN) == len(all_words()) >= 2000
    first = (ROOT / "tests/data/first_pocket_words.txt").read_text(encoding="utf-8").split()
    assert len(first) == 441
    assert set(first) <= KNOWN


def test_the_examples_are_found() -> None:
    texts = spoken_examples()
    assert "Hello, welcome to the Qwen text-to-speech API." in texts
    assert len(texts) >= 6


@pytest.mark.parametrize("text", spoken_examples())
def test_every_word_of_an_example_is_known(text: str) -> None:
    assert set(words_of_example(text)) <= KNOWN


def test_entries_are_words_or_forms_of_words() -> None:
    for category in categories():
        for entry in entries(category):
            assert entry[0] != "-"
            for form in entry:
                assert form == "-" or re.fullmatch(r"[A-Za-z' ]+", form), (category, entry)


def test_a_form_that_is_not_used_is_left_out() -> None:
    assert ("ride", "rides", "-", "riding") in entries("motion_verbs")
    assert "-" not in forms("motion_verbs", 2)
    assert "riding" in forms("motion_verbs", 3)


def test_random_strings_hold_nothing_that_only_a_sentence_can_tell_apart() -> None:
    alike = frozenset().union(*homophone_sets())
    plain = {word.lower() for word in plain_words()}
    assert {"two", "right", "b"} <= alike
    assert not plain & alike
    assert "the" not in plain and "elephant" in plain


@given(seeds)
def test_sentences_are_short_known_and_end_like_sentences(rng: Random) -> None:
    for part in split_sentences(sentence(rng)):
        words = normalise(part).split()
        assert 1 <= len(words) <= grammar.MAX_WORDS
        assert set(words) <= KNOWN, part
        assert part[0].isupper() and part[-1] in ".?!"
        assert not re.search(r"[\[\]<>|_]|  ", part)


@given(seeds, st.integers(1, 10))
def test_training_never_has_a_held_out_sentence(rng: Random, count: int) -> None:
    parts = split_sentences(utterance(rng, num_sentences=count))
    assert len(parts) >= count
    assert not any(map(is_held_out, parts))


@given(seeds)
def test_all_sentences_of_a_held_out_utterance_are_held_out(rng: Random) -> None:
    parts = split_sentences(utterance(rng, held_out=True))
    assert 1 <= len(parts) <= 3
    assert all(map(is_held_out, parts))


def test_one_sentence_in_twenty_is_held_out() -> None:
    rng = Random(5)
    drawn = [grammar._draw(rng, 0.0) for _ in range(3000)]
    long = [text for text in drawn if len(text.split()) > 2]
    assert 0.03 < sum(map(is_held_out, long)) / len(long) < 0.07


def test_case_and_punctuation_do_not_decide_what_is_held_out() -> None:
    text = sentence(Random(1), held_out=True)
    assert is_held_out(text.upper().replace(".", " !"))


@pytest.mark.parametrize("text", grammar.phrases())
def test_what_documents_let_a_server_speak_is_trained(text: str) -> None:
    assert not any(map(is_held_out, split_sentences(text)))
    assert set(normalise(text).split()) <= KNOWN


@pytest.mark.parametrize("pattern", grammar.patterns()[0])
def test_every_pattern_makes_sentences(pattern: str) -> None:
    rng = Random(3)
    for _ in range(20):
        assert grammar._expand(pattern, rng)[-1] in ".?!"


def test_a_pattern_with_an_unknown_list_is_refused() -> None:
    with pytest.raises(ValueError, match="'wizards', which is neither"):
        grammar._expand("the <wizards> sleep.", Random(0))


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("a apple and a hour", "an apple and an hour"),
        ("a university is a API", "a university is an API"),
        ("a URL, a useful thing", "a URL, a useful thing"),
        ("a eagle with a red eye", "an eagle with a red eye"),
    ],
)
def test_the_article_fits_the_next_word(text: str, better: str) -> None:
    assert grammar._expand(text, Random(0)) == better


@given(st.integers(0, 999_999))
def test_numbers_are_made_of_known_words(number: int) -> None:
    assert set(number_words(number).split()) <= KNOWN


def test_numbers_are_read_one_way_each() -> None:
    assert number_words(21) == "twenty one"
    assert number_words(305) == "three hundred and five"
    assert number_words(2047) == "two thousand and forty seven"
    assert number_words(90_210) == "ninety thousand two hundred and ten"
    assert len({number_words(n) for n in range(3000)}) == 3000
    with pytest.raises(ValueError, match=r"1000000 is more than 999,999"):
        number_words(1_000_000)


@given(seeds)
def test_what_espeak_is_given_has_the_same_number_of_words(rng: Random) -> None:
    text = sentence(rng)
    assert len(spoken_form(text).split()) == len(text.split())


def test_letters_are_named_and_the_article_is_not() -> None:
    assert spoken_form("A cat. T A, A N.") == "A cat. T eigh, eigh N."
    assert spoken_form("Hello Qwen. Qwen's!") == "Hello kwen. kwens!"
