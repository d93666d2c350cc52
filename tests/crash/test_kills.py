"""Nothing is lost: a real server is killed again and again under load, and audited each time."""

import pytest
from store_places import Place

from benchmarks.kill.drill import SHARES, drill
from benchmarks.report import say

NUM_KILLS = 20


@pytest.mark.slow
def test_nothing_is_lost_by_kills_at_any_moment(
    empty_place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    found = drill(empty_place.url, num_kills=NUM_KILLS, seed=20)
    with capfd.disabled():
        say(f"\n{empty_place.kind}: {found.as_result()}")
    assert found.faults == []
    assert found.num_kills == NUM_KILLS
    assert found.num_in_flight >= NUM_KILLS / 3
    assert found.inside_write["between file and row"] >= NUM_KILLS / 10
    assert set(found.inside_write) == set(SHARES)
    # It was load, it left something to tidy up, and what was answered was asked for again.
    kept = ("clone", "stored whole speech", "stored streamed speech", "stored batch")
    assert min(found.answers[what] for what in kept) > 0
    assert found.num_swept > 0
    assert found.num_compared > NUM_KILLS
