"""Words and time stamps of the aligner; exact official behaviour is in parity/."""

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_audio.models.aligner import (
    AlignedWord,
    AlignerHead,
    lay_out,
    place_words,
    repair_stamps,
    restore_text,
    split_words,
)


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("English", "And so, it's 3.5!", ["And", "so", "it's", "35"]),
        ("English", " … — ", []),
        ("Chinese", "今天，去GPU公司。", ["今", "天", "去", "GPU", "公", "司"]),
        (
            "Japanese",
            "今日はいいテスト、GPU三つ。",
            ["今日", "はいい", "テスト", "GPU", "三", "つ"],
        ),
        ("Japanese", "人々がサーバーへ", ["人々", "が", "サーバー", "へ"]),
        ("Korean", "안녕하세요, 반갑습니다.", ["안녕하세요", "반갑습니다"]),
    ],
)
def test_words_are_what_the_aligner_was_trained_on(
    language: str, text: str, words: list[str]
) -> None:
    assert split_words(text, language) == words


def test_each_word_is_followed_by_its_two_stamps() -> None:
    ids = {"<|audio_start|>": 1, "<|audio_pad|>": 2, "<|audio_end|>": 3, "<timestamp>": 4}
    layout = lay_out(
        ["ab", "c"], 3, encode=lambda word: [100 + ord(c) for c in word], special=ids.__getitem__
    )
    assert layout.ids == (1, 2, 2, 2, 3, 197, 198, 4, 4, 199, 4, 4)
    assert [layout.ids[at] for at in layout.stamps] == [4] * 4
    assert layout.ids[layout.audio_start :][: layout.num_audio_tokens] == (2, 2, 2)


def test_the_head_picks_the_best_class() -> None:
    head = AlignerHead({"thinker.lm_head.weight": torch.eye(5)})
    assert head(torch.tensor([[0.0, 3, 1, 0, 0], [0, 0, 0, 0, 9]])).tolist() == [1, 4]


def test_classes_become_seconds() -> None:
    placed = place_words(["a", "b"], [1, 3, 3, 12], step_ms=80)
    assert placed == [AlignedWord("a", 0.08, 0.24), AlignedWord("b", 0.24, 0.96)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], []),
        ([5], [5]),
        ([1, 2, 2, 3], [1, 2, 2, 3]),
        ([10, 99, 20, 30], [10, 10, 20, 30]),  # one: the neighbour before it
        ([10, 99, 98, 20, 30, 40], [10, 10, 20, 20, 30, 40]),  # two: one to each side
        ([0, 900, 800, 700, 40, 50, 60, 70], [0, 10, 20, 30, 40, 50, 60, 70]),  # more: evenly
        ([900, 800, 0, 1, 2], [0, 0, 0, 1, 2]),
    ],
)
def test_stamps_out_of_order_move_between_their_neighbours(
    before: list[float], after: list[int]
) -> None:
    assert repair_stamps(before) == after


@settings(deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=200))
def test_repaired_stamps_never_decrease_and_stay_in_range(stamps: list[int]) -> None:
    repaired = repair_stamps(stamps)
    assert len(repaired) == len(stamps)
    assert all(first <= second for first, second in pairwise(repaired))
    if stamps == sorted(stamps):
        assert repaired == stamps
    if stamps:
        assert min(stamps) <= repaired[0]
        assert repaired[-1] <= max(stamps)


def test_an_hour_of_stamps_is_repaired_at_once() -> None:
    draw = random.Random(0)
    stamps = [80 * max(0, at + draw.randint(-50, 50)) for at in range(20_000)]
    repaired = repair_stamps(stamps)
    assert repaired == sorted(repaired)


def aligned(text: str, language: str = "English") -> list[AlignedWord]:
    words = split_words(text, language)
    return place_words(words, list(range(2 * len(words))), step_ms=80)


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("English", "He said: \"It's 3.5, (well) isn't it?\"", None),
        ("Chinese", "“今天，很好。”", ["“今", "天，", "很", "好。”"]),
        ("Chinese", "去（北京）吗", ["去", "（北", "京）", "吗"]),
        ("Spanish", "¿Qué tal? ¡Bien!", ["¿Qué", "tal?", "¡Bien!"]),
        ("Hindi", "नमस्ते दुनिया।", ["नमस्ते", "दुनिया।"]),
        ("French", "Oui — « non » !", ["Oui —", "« non » !"]),
        ("German", "„So“ – ja: „Nein“.", ["„So“ –", "ja:", "„Nein“."]),
    ],
)
def test_words_get_their_signs_back(language: str, text: str, words: list[str] | None) -> None:
    restored = [word.text for word in restore_text(aligned(text, language), text)]
    assert restored == (words or text.split())


@settings(deadline=None)
@given(st.text("ab'é .,(-“” \n今天", max_size=40), st.sampled_from(["English", "Japanese"]))
def test_restored_words_hold_the_whole_text_but_white_space(text: str, language: str) -> None:
    words = aligned(text, language)
    restored = restore_text(words, text)
    assert [(word.start_s, word.end_s) for word in restored] == [
        (word.start_s, word.end_s) for word in words
    ]
    if words:
        joined = "".join(word.text for word in restored)
        assert "".join(joined.split()) == "".join(text.split())
