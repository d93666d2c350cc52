import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_audio.sentences import split_text

LETTERS = st.sampled_from(
    list("abc dé 中文字 。！？，、.!?,;:\n\t\u3000 …”」)’ 5e\u0301👩\u200d🚀\ufe0f")
)
TEXTS = st.text(LETTERS, min_size=1, max_size=300).filter(str.strip)


def without_space(text: str) -> str:
    return "".join(text.split())


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, part_chars=st.integers(1, 40))
def test_nothing_is_lost_but_white_space_at_the_cuts(text: str, part_chars: int) -> None:
    parts = split_text(text, whole_chars=0, part_chars=part_chars)
    assert without_space("".join(parts)) == without_space(text)
    assert all(part == part.strip() for part in parts)
    assert all(1 <= len(part) <= part_chars for part in parts)
    pattern = r"\s*".join(re.escape(part) for part in parts)  # parts are pieces of the text
    assert re.fullmatch(pattern, text.strip())


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_a_short_text_is_one_part(text: str) -> None:
    assert split_text(text) == [text.strip()]


def test_from_601_characters_on_parts_have_at_most_400() -> None:
    text = "This is a sentence of some words. " * 40
    assert split_text(text[:600]) == [text[:600].strip()]
    parts = split_text(text[:680])
    assert len(parts) == 2
    assert all(part.endswith(".") and len(part) <= 400 for part in parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One two. Three four. Five six.", ["One two. Three four.", "Five six."]),
        ("He said “Go now.” Then he went off.", ["He said “Go now.”", "Then he went off."]),
        ("Ask Dr. Smith about it. He knows.", ["Ask Dr. Smith about it.", "He knows."]),
        ("It costs 3.50 in all. Not 4.75 a head.", ["It costs 3.50 in all.", "Not 4.75 a head."]),
        ("Meet J. R. Smith today at noon. Bye.", ["Meet J. R. Smith today", "at noon. Bye."]),
        ("First line of it\nSecond line of it", ["First line of it", "Second line of it"]),
        ("a clause here, and another one there", ["a clause here,", "and another one there"]),
        ("words without any marks between them", ["words without any marks", "between them"]),
        ("x" * 50, ["x" * 25, "x" * 25]),
    ],
)  # fmt: skip
def test_cuts_are_where_a_speaker_would_breathe(text: str, parts: list[str]) -> None:
    assert split_text(text, whole_chars=0, part_chars=25) == parts


def test_writing_without_spaces_is_cut_after_its_own_marks() -> None:
    chinese = "你好，世界。今天天气很好！我们出去走走吧？好的。"
    assert split_text(chinese, whole_chars=0, part_chars=14) == [
        "你好，世界。今天天气很好！",
        "我们出去走走吧？好的。",
    ]
    japanese = "これは「テスト。」次の文です。最後の文です。"
    assert split_text(japanese, whole_chars=0, part_chars=12) == [
        "これは「テスト。」",
        "次の文です。",
        "最後の文です。",
    ]


def test_a_letter_keeps_its_marks_where_there_is_no_better_cut() -> None:
    text = "e\u0301" * 30
    parts = split_text(text, whole_chars=0, part_chars=25)
    assert all(part[0] == "e" and part[-1] == "\u0301" for part in parts)


def test_the_longest_text_is_cut_in_linear_time() -> None:
    text = ("no mark at all in here " * 5000)[:100_000]
    assert without_space("".join(split_text(text))) == without_space(text)
    assert len(split_text("x" * 100_000)) == 250
