"""Counters and histograms of one app, in Prometheus' format; a registry of its own for each app."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from qwen3_audio.outcomes import Ended
from qwen3_audio.types import Backend, RunnerStats

PREFIX = "qwen3_audio"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 300)
_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)


class Metrics:
    def __init__(self, backend: Backend) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_RunnerCollector(backend))
        self._requests = self._counter("requests", "HTTP requests answered", "route", "status")
        self._in_flight = Gauge(
            f"{PREFIX}_requests_in_flight", "HTTP requests being answered", registry=self.registry
        )
        self._request_s = self._histogram(
            "request_seconds", "From request to last byte", "route", _SECONDS
        )
        self._orders = self._counter(
            "orders", "Texts spoken and recordings heard", "work", "outcome"
        )
        self._first_s = self._histogram(
            "first_seconds", "From receipt to first sound or text", "work", _SECONDS
        )
        self._factor = self._histogram(
            "realtime_factor", "Time taken per time of sound", "work", _FACTORS
        )
        self._audio_s = self._counter("audio_seconds", "Sound made or heard", "work")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"{PREFIX}_{name}", text, (label,), buckets=buckets, registry=self.registry
        )

    def begin_request(self) -> None:
        self._in_flight.inc()

    def end_request(self, route: str, status: int, seconds: float) -> None:
        self._in_flight.dec()
        self._requests.labels(route, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def end_order(self, ended: Ended) -> None:
        self._orders.labels(ended.work, ended.outcome).inc()
        self._audio_s.labels(ended.work).inc(ended.audio_s)
        if ended.first_s is not None:
            self._first_s.labels(ended.work).observe(ended.first_s)
        if ended.outcome == "done" and ended.audio_s > 0:
            self._factor.labels(ended.work).observe(ended.total_s / ended.audio_s)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _RunnerCollector(Collector):
    """Reads the back-end's own figures at the moment they are asked for."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        stats = self._backend.stats()
        yield _gauge("running", "Requests in a slot", {s.kind: s.num_running for s in stats})
        yield _gauge("waiting", "Requests in the line", {s.kind: s.num_waiting for s in stats})
        yield _gauge("slots", "Requests that can run at once", {s.kind: s.num_slots for s in stats})
        yield _steps(stats)
        yield _ended(stats)


def _gauge(name: str, text: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["kind"])
    for kind, value in values.items():
        family.add_metric([kind], value)
    return family


def _steps(stats: list[RunnerStats]) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}_steps", "Frames made or text tokens recognised", labels=["kind"]
    )
    for row in stats:
        family.add_metric([row.kind], row.num_steps)
    return family


def _ended(stats: list[RunnerStats]) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}_ended", "Generations by why they ended", labels=["kind", "reason"]
    )
    for row in stats:
        for reason, count in row.ended.items():
            family.add_metric([row.kind, reason], count)
    return family
