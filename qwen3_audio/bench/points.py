"""Point after point: warm up, ask at one load, sum up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qwen3_audio.bench.figures import summarise, summarise_listening
from qwen3_audio.bench.loops import Run, closed_loop, open_loop, poisson_arrivals
from qwen3_audio.bench.results import load_average
from qwen3_audio.bench.sample import REFUSED, Sample
from qwen3_audio.progress import Report, counting_progress

DEFAULT_DURATION_S = 30.0
WARM_UP_NUMBER = 1_000_000  # other seeds and sounds than those that count
MOST_AT_ONCE_TO_WARM_UP = 8
TURNS = 2  # of everybody who asks at once, unless somebody says how many


@dataclass(frozen=True, slots=True)
class Load:
    """Closed: so many at once. Open: so many a second, at random times."""

    mode: Literal["closed", "open"]
    load: float

    @property
    def label(self) -> str:
        return f"{self.load:g} at once" if self.mode == "closed" else f"{self.load:g} per s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Of requests in each point; neither said: two turns in a closed loop, 30 s in an open one."""

    num_requests: int | None = None
    least_requests: int = 1  # of a closed loop where nobody said
    duration_s: float | None = None
    num_warm_up: int = 2
    seed: int = 0


def measure_point(
    run: Run, load: Load, amount: Amount, *, kind: str, report: Report
) -> tuple[list[Sample], dict[str, Any]]:
    """The samples and what they come to. The warm-up is not part of them."""
    _warm_up(run, load, amount.num_warm_up)
    before = load_average()
    samples = _measure(run, load, amount, report)
    figures = summarise(samples) | (summarise_listening(samples) if kind == "speech" else {})
    point = {"label": load.label, "mode": load.mode, "load": load.load, **figures}
    return samples, point | {"load_average_before": before, "load_average": load_average()}


def is_down(samples: Sequence[Sample]) -> bool:
    """Whether nobody listens there any more."""
    return any(sample.error == REFUSED for sample in samples)


def _warm_up(run: Run, load: Load, num_requests: int) -> None:
    at_once = min(load.load, num_requests, MOST_AT_ONCE_TO_WARM_UP) if load.mode == "closed" else 1
    closed_loop(
        lambda number, planned_s: run(WARM_UP_NUMBER + number, planned_s),
        concurrency=max(1, int(at_once)),
        num_requests=num_requests,
        duration_s=DEFAULT_DURATION_S,
        on_done=lambda: None,
    )


def _measure(run: Run, load: Load, amount: Amount, report: Report) -> list[Sample]:
    num_requests, duration_s = amount.num_requests, amount.duration_s or DEFAULT_DURATION_S
    if load.mode == "open":
        arrivals = poisson_arrivals(
            load.load, seed=amount.seed, num_requests=num_requests, duration_s=duration_s
        )
        with counting_progress(load.label, len(arrivals), report) as advance:
            return open_loop(run, arrivals, on_done=advance)
    concurrency = int(load.load)
    if num_requests is None and amount.duration_s is None:
        num_requests = max(amount.least_requests, TURNS * concurrency)
    with counting_progress(load.label, num_requests, report) as advance:
        return closed_loop(
            run,
            concurrency=concurrency,
            num_requests=num_requests,
            duration_s=duration_s,
            on_done=advance,
        )
