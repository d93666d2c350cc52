"""The bounds of the accuracy benchmark and of check-pocket, on figures made up here."""

from typing import Any

import pytest
import torch

from benchmarks import accuracy, check_pocket
from benchmarks.accuracy import Figures, Trace


def trace(logits: list[list[float]], hidden: list[list[float]] | None = None) -> Trace:
    return Trace(torch.tensor(hidden or logits), torch.tensor(logits))


def test_only_clear_choices_count() -> None:
    reference = trace([[3.0, 0.0, 0.0], [1.0, 0.99, 0.0], [0.0, 5.0, 0.0]])
    got = trace([[3.0, 0.0, 0.0], [0.9, 1.0, 0.0], [6.0, 5.0, 0.0]])
    figures = Figures.compare(got, reference)
    assert (figures.num_steps, figures.num_clear, figures.same) == (3, 2, 0.5)


def test_the_least_cosine_is_that_of_the_worst_step() -> None:
    logits = [[1.0, 0.0], [1.0, 0.0]]
    got = trace(logits, hidden=[[2.0, 0.0], [1.0, 1.0]])
    figures = Figures.compare(got, trace(logits))
    assert figures.cosine_least == pytest.approx(0.5**0.5)
    assert figures.cosine_mean == pytest.approx((1 + 0.5**0.5) / 2)


@pytest.mark.parametrize(
    ("dtype", "cosine", "same", "kept"),
    [
        ("bfloat16", 0.99991, 0.99, [True, True]),
        ("bfloat16", 0.99989, 0.989, [False, False]),
        ("int8", 0.9901, 0.5, [True]),
        ("int8", 0.9899, 1.0, [False]),
    ],
)
def test_accuracy_is_judged_by_precision(
    dtype: str, cosine: float, same: float, kept: list[bool]
) -> None:
    figures = Figures(512, cosine, cosine, cosine, 400, same)
    assert list(accuracy.judge("asr", {dtype: {"decoder": figures}}).values()) == kept


def result(heard: list[str], wer: float) -> dict[str, Any]:
    clips = {"exact": 20, "of": 20, "wrong": [], "heard": heard}
    return {"clips_alone": clips, "clips_at_once": clips, "digits": {"wer": wer}}


@pytest.mark.parametrize(
    ("num_changed", "wer", "kept"), [(1, 0.15, True), (2, 0.15, False), (0, 0.16, False)]
)
def test_int8_is_judged_beside_float32(num_changed: int, wer: float, kept: bool) -> None:
    texts = [f"text {number}" for number in range(20)]
    changed = ["another"] * num_changed + texts[num_changed:]
    checks = check_pocket.judge({"float32": result(texts, 0.1), "int8": result(changed, wer)})
    assert all(is_kept for what, is_kept in checks.items() if what.startswith("float32"))
    assert all(checks.values()) is kept
