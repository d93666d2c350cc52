"""Who asks when; no server, no real waiting."""

import statistics
import threading
from itertools import pairwise

from qwen3_audio.bench.loops import closed_loop, open_loop, poisson_arrivals
from qwen3_audio.bench.points import Amount, Load, measure_point
from qwen3_audio.bench.sample import REFUSED, Sample


def answered(planned_s: float, error: str | None = None) -> Sample:
    return Sample(planned_s=planned_s, begin_s=planned_s, end_s=planned_s + 1e-3, error=error)


def test_arrivals_are_the_same_for_the_same_seed() -> None:
    first = poisson_arrivals(2.0, seed=1, num_requests=10, duration_s=0)
    assert first == poisson_arrivals(2.0, seed=1, num_requests=10, duration_s=0)
    assert first != poisson_arrivals(2.0, seed=2, num_requests=10, duration_s=0)
    assert first == sorted(first)
    assert len(first) == 10


def test_arrivals_have_the_rate_and_the_spread_of_chance() -> None:
    arrivals = poisson_arrivals(5.0, seed=0, num_requests=None, duration_s=1000)
    assert arrivals[-1] <= 1000
    assert 4800 < len(arrivals) < 5200
    gaps = [after - before for before, after in pairwise(arrivals)]
    assert 0.9 < statistics.stdev(gaps) / statistics.mean(gaps) < 1.1  # exponential


def test_a_closed_loop_keeps_so_many_asking_and_asks_each_number_once() -> None:
    barrier, numbers = threading.Barrier(4, timeout=20), list[int]()

    def run(number: int, planned_s: float) -> Sample:
        barrier.wait()  # only four at once come past it
        numbers.append(number)
        return answered(planned_s)

    done = list[None]()
    samples = closed_loop(
        run, concurrency=4, num_requests=12, duration_s=0, on_done=lambda: done.append(None)
    )
    assert sorted(numbers) == list(range(12))
    assert len(samples) == len(done) == 12


def test_a_closed_loop_without_a_number_ends_with_its_time() -> None:
    assert not closed_loop(
        lambda number, planned_s: answered(planned_s),
        concurrency=2,
        num_requests=None,
        duration_s=-1,
        on_done=lambda: None,
    )


def test_an_open_loop_does_not_wait_for_answers() -> None:
    everybody_is_in = threading.Barrier(5, timeout=20)

    def run(number: int, planned_s: float) -> Sample:
        everybody_is_in.wait()
        return answered(planned_s)

    samples = open_loop(run, [0.0, 0.001, 0.002, 0.003, 0.004], on_done=lambda: None)
    assert [round(s.planned_s - samples[0].planned_s, 4) for s in samples] == [
        0.0,
        0.001,
        0.002,
        0.003,
        0.004,
    ]


def test_nobody_asks_on_where_nobody_listens() -> None:
    def refuse(number: int, planned_s: float) -> Sample:
        return answered(planned_s, REFUSED if number >= 2 else None)

    samples = closed_loop(
        refuse, concurrency=1, num_requests=1000, duration_s=0, on_done=lambda: None
    )
    assert [sample.error for sample in samples] == [None, None, REFUSED]
    assert len(open_loop(refuse, [0.0, 0.0, 0.0, 0.2, 60.0], on_done=lambda: None)) < 5


def test_the_warm_up_is_asked_for_and_not_counted() -> None:
    numbers = list[int]()

    def run(number: int, planned_s: float) -> Sample:
        numbers.append(number)
        return answered(planned_s)

    lines = list[str]()
    samples, point = measure_point(
        run,
        Load("closed", 2),
        Amount(num_requests=5, num_warm_up=3),
        kind="transcription",
        report=lines.append,
    )
    assert len(samples) == point["num_requests"] == 5
    assert len(numbers) == 8
    assert len(set(numbers)) == 8
    assert point["label"] == "2 at once"
    assert lines[-1] == "2 at once: 5 done"
