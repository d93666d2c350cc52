"""Closed and open loops: who asks when. A request is a function of its number and due time."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from qwen3_audio.bench.sample import REFUSED, Sample

Run = Callable[[int, float], Sample]  # (number, planned_s) → what became of it
MAX_IN_FLIGHT = 1024  # threads of an open loop


def poisson_arrivals(
    rate_per_s: float, *, seed: int, num_requests: int | None, duration_s: float
) -> list[float]:
    """Seconds from the start, the same for the same seed: so many, or as many as there is time."""
    draw, at_s, arrivals = random.Random(seed), 0.0, list[float]()
    while num_requests is None or len(arrivals) < num_requests:
        at_s += draw.expovariate(rate_per_s)
        if num_requests is None and at_s > duration_s:
            break
        arrivals.append(at_s)
    return arrivals


def closed_loop(
    run: Run,
    *,
    concurrency: int,
    num_requests: int | None,
    duration_s: float,
    on_done: Callable[[], None],
) -> list[Sample]:
    """So many ask again as soon as they are answered. Ends early where nobody listens any more."""
    numbers, is_over = itertools.count(), threading.Event()
    end_s = time.perf_counter() + duration_s

    def ask_again() -> list[Sample]:
        samples = list[Sample]()
        while not is_over.is_set():
            number, now_s = next(numbers), time.perf_counter()
            if number >= num_requests if num_requests is not None else now_s >= end_s:
                break
            samples.append(_watched(run, number, now_s, is_over))
            on_done()
        return samples

    with ThreadPoolExecutor(concurrency) as threads:
        try:
            futures = [threads.submit(ask_again) for _ in range(concurrency)]
            return [sample for future in futures for sample in future.result()]
        finally:
            is_over.set()


def open_loop(
    run: Run, arrivals_s: Sequence[float], *, on_done: Callable[[], None]
) -> list[Sample]:
    """Each asks when it is due, whatever became of those before."""
    is_over, begin_s = threading.Event(), time.perf_counter()

    def ask(number: int, planned_s: float) -> Sample:
        sample = _watched(run, number, planned_s, is_over)
        on_done()
        return sample

    with ThreadPoolExecutor(MAX_IN_FLIGHT) as threads:
        futures = []
        for number, at_s in enumerate(arrivals_s):
            planned_s = begin_s + at_s
            if is_over.wait(max(0.0, planned_s - time.perf_counter())):
                break
            futures.append(threads.submit(ask, number, planned_s))
        return [future.result() for future in futures]


def _watched(run: Run, number: int, planned_s: float, is_over: threading.Event) -> Sample:
    sample = run(number, planned_s)
    if sample.error == REFUSED:
        is_over.set()
    return sample
