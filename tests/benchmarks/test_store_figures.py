"""What the measurements of the store and of the kills are judged by; no server."""

from typing import Any

import pytest

from benchmarks import soak, store

STORE: dict[str, Any] = {
    "outside": {
        "num_rows": 1_000_000,
        "times_ms": {"empty": {"tts": {"median": 4.9}, "speech": {"median": 4.9}}},
        "change": {"tts": 0.199, "speech": -0.1},
    },
    "health": {"slowest_ms": 49.9, "num_users": 32, "answers": {"tts 200": 5}},
}


def test_figures_of_the_store_at_their_bounds_are_kept() -> None:
    assert len(store.judge(STORE)) == 6
    assert all(store.judge(STORE).values())


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("outside", {"times_ms": {"empty": {"tts": {"median": 5.0}, "speech": {"median": 1.0}}}}),
        ("outside", {"change": {"tts": 0.1, "speech": 0.2}}),
        ("health", {"slowest_ms": 50.0}),
        ("health", {"answers": {"tts 200": 5, "speech 503": 1}}),
    ],
)
def test_a_figure_of_the_store_beyond_its_bound_is_missed(
    part: str, changed: dict[str, Any]
) -> None:
    assert not all(store.judge(STORE | {part: STORE[part] | changed}).values())


KILLED: dict[str, Any] = {
    "num_kills": 50,
    "num_in_flight": 17,
    "inside_write": {"between file and row": 5},
    "num_compared": 1,
}


def test_kills_at_their_bounds_are_kept() -> None:
    assert all(soak.judge({"kill": {"sqlite": KILLED}}).values())


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("num_in_flight", 16),
        ("inside_write", {"between file and row": 4, "between row and commit": 9}),
        ("num_compared", 0),
        ("faults", ["a row has no file"]),
    ],
)
def test_kills_beyond_their_bounds_are_missed(figure: str, value: Any) -> None:
    assert not all(soak.judge({"kill": {"sqlite": KILLED | {figure: value}}}).values())
