"""What samples come to; failures most of all."""

import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_audio.bench.figures import percentile, spread, summarise, summarise_listening
from qwen3_audio.bench.sample import Arrival, Sample

NUMBERS = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


def spoken(latency_s: float, *, planned_s: float = 0.0, num_tokens: int | None = 25) -> Sample:
    end_s = planned_s + latency_s
    return Sample(
        planned_s=planned_s,
        begin_s=planned_s + 0.001,
        end_s=end_s,
        first_byte_s=planned_s + latency_s / 2,
        arrivals=(Arrival(planned_s + latency_s / 2, 1.0), Arrival(end_s, 1.0)),
        audio_s=2.0,
        num_tokens=num_tokens,
    )


def failed(error: str) -> Sample:
    return Sample(planned_s=0.0, begin_s=0.0, end_s=0.01, error=error)


def test_a_percentile_is_one_of_the_values_that_so_many_do_not_exceed() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, p) for p in (0, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 99) == 7


@given(NUMBERS, st.integers(0, 100))
def test_a_percentile_covers_its_share(values: Sequence[float], percent: int) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100


def test_a_failure_counts_as_for_ever() -> None:
    assert spread([1.0] * 9, 1)["p50"] == 1
    assert spread([1.0] * 9, 1)["p95"] is None
    assert spread([1.0] * 9, 1)["mean"] is None
    assert spread([1.0] * 9, 1)["max"] == 1
    assert set(spread([], 3).values()) == {None}
    assert set(spread([]).values()) == {None}


def test_rates_count_what_succeeded_and_errors_are_counted_by_kind() -> None:
    samples = [spoken(1.0), spoken(2.0), failed("HTTP 503"), failed("HTTP 503"), failed("no sound")]
    point = summarise(samples)
    assert (point["num_requests"], point["num_done"], point["num_failed"]) == (5, 2, 3)
    assert point["errors"] == {"HTTP 503": 2, "no sound": 1}
    assert point["audio_s_per_s"] == 2.0
    assert point["requests_per_s"] == 1.0
    assert point["tokens_per_s"] == 25.0
    assert point["latency_ms"]["p50"] is None
    assert point["rtf"]["min"] == 0.5


def test_tokens_are_unknown_where_one_answer_does_not_say() -> None:
    assert summarise([spoken(1.0), spoken(1.0, num_tokens=None)])["tokens_per_s"] is None


def test_times_run_from_when_a_request_was_due() -> None:
    point = summarise([spoken(1.0, planned_s=5.0)])
    assert point["latency_ms"]["p50"] == 1000
    assert point["first_byte_ms"]["p50"] == 500
    assert point["dispatch_lag_ms"]["p50"] == pytest.approx(1)


def test_the_share_without_gaps_is_of_all_requests() -> None:
    listening = summarise_listening([spoken(1.0), spoken(4.0), failed("HTTP 500")])
    assert listening["num_underruns"] == 1
    assert listening["gap_free_share"] == {"0 ms": 0.3333, "50 ms": 0.3333}
    assert listening["first_sound_ms"]["p50"] == 2000
    assert summarise_listening([failed("HTTP 500")])["num_underruns"] is None


@given(st.lists(st.sampled_from([spoken(1.0), failed("HTTP 500")]), max_size=6))
def test_figures_are_always_json(samples: list[Sample]) -> None:
    text = json.dumps(summarise(samples) | summarise_listening(samples), allow_nan=False)
    assert not math.isnan(json.loads(text)["wall_s"])
