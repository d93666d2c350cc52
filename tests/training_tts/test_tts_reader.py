import numpy as np
import pytest

from training.tts.descriptions import QUICK, SLOWLY, draw_description, interpret
from training.tts.evaluate import draw_sentences
from training.tts.lexicon import PAUSE, Lexicon
from training.tts.reader import Reader
from training.world import grammar
from training.world.words import normalise

pytestmark = pytest.mark.slow  # of the training, not of the product


def units(lexicon: Lexicon, text: str) -> list[str]:
    return [name for name in Reader(lexicon).units(text) if name != PAUSE]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Hello world.", ["word hello", "word world"]),
        ("It's 42", ["word it's", "word forty", "word two"]),
        ("2025", ["word two", "word zero", "word two", "word five"]),
        ("100%", ["word one", "word hundred", "word percent"]),
        ("A river", ["word a", "word river"]),
        ("A B", ["piece a", "piece b"]),
        ("xq", ["piece x", "piece q"]),
        ("“don't”", ["word don't"]),
        ("好 🙂", []),
        ("", []),
    ],
)
def test_what_a_text_is_said_as(lexicon: Lexicon, text: str, names: list[str]) -> None:
    assert units(lexicon, text) == names


def test_no_latin_letter_is_dropped(lexicon: Lexicon) -> None:
    said = units(lexicon, "Zyxthinkwv")
    assert "".join(name.split()[1] for name in said) == "zyxthinkwv"


def test_commas_are_shorter_pauses_than_full_stops_and_the_end_is_short(lexicon: Lexicon) -> None:
    reader = Reader(lexicon)
    assert reader.units("one, two") == ["word one", PAUSE, PAUSE, "word two", PAUSE]
    assert reader.units("one. two.") == ["word one", PAUSE, PAUSE, PAUSE, "word two", PAUSE]


def test_slow_speech_has_gaps_and_fast_speech_has_units_of_its_own(lexicon: Lexicon) -> None:
    reader = Reader(lexicon)
    assert len(reader.codes("one two", gap=2)) == len(reader.codes("one two")) + 4
    assert reader.units("one two", is_fast=True)[:2] == ["fast one", "fast two"]


@pytest.mark.parametrize(
    ("text", "name", "tempo"),
    [
        ("A deep male voice", "uncle_fu", 0),
        ("a high female voice, speaking slowly", "ono_anna", SLOWLY),
        ("A young man who speaks quickly", "dylan", QUICK),
    ],
)
def test_a_description_names_a_voice_and_a_tempo(text: str, name: str, tempo: int) -> None:
    found = interpret(text)
    assert (found.voice.name, found.tempo) == (name, tempo)


def test_random_descriptions_reach_many_voices_and_every_tempo() -> None:
    drawn = [draw_description(np.random.default_rng(i)) for i in range(300)]
    assert len({one.voice.name for one in drawn}) >= 4
    assert {one.tempo for one in drawn} == {0, QUICK, SLOWLY}
    assert all(one.voice.is_male for one in drawn if " man" in f" {one.text.lower()}".split(","))


def test_sentences_for_a_judge_are_held_out_and_of_its_words() -> None:
    known = frozenset(["one", "two", "three", "is", "my", "the", "code"])
    for text in draw_sentences(3, words=known):
        assert grammar.is_held_out(text)
        assert set(normalise(text).split()) <= known
