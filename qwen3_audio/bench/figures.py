"""Samples → the figures of one point of load. A request that failed took for ever.

Percentiles are over all requests: where failures reach one, it has no value (None).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from qwen3_audio.bench.player import play
from qwen3_audio.bench.sample import Sample

PERCENTILES = (50, 95, 99)
GAP_BUDGETS_MS = (0, 50)

Point = dict[str, Any]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that this share of all does not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def spread(values: Iterable[float], num_failed: int = 0, *, scale: float = 1.0) -> Point:
    """Percentiles and mean of all, and the best and the worst that succeeded."""
    good = sorted(scale * value for value in values)
    every = [*good, *[math.inf] * num_failed]
    if not every:
        return dict.fromkeys([*(f"p{p}" for p in PERCENTILES), "mean", "min", "max"])
    return {
        **{f"p{p}": _finite(percentile(every, p)) for p in PERCENTILES},
        "mean": _finite(sum(every) / len(every)),
        "min": _finite(every[0]),
        "max": _finite(good[-1] if good else math.inf),
    }


def summarise(samples: Sequence[Sample]) -> Point:
    """Whatever both kinds of work have; all of it counts successes alone or says what failed."""
    good = [sample for sample in samples if sample.error is None]
    errors = Counter(sample.error for sample in samples if sample.error is not None)
    num_failed = len(samples) - len(good)
    wall_s = _wall_s(samples)
    tokens = [sample.num_tokens for sample in good]
    num_tokens = None if None in tokens or not good else sum(filter(None, tokens))
    return {
        "num_requests": len(samples),
        "num_done": len(good),
        "num_failed": num_failed,
        "errors": dict(errors.most_common()),
        "wall_s": round(wall_s, 4),
        "latency_ms": spread((s.latency_s for s in good), num_failed, scale=1000),
        "first_byte_ms": spread(
            (s.first_byte_s - s.planned_s for s in good if s.first_byte_s is not None),
            num_failed,
            scale=1000,
        ),
        "rtf": spread((s.latency_s / s.audio_s for s in good if s.audio_s > 0), num_failed),
        "audio_s_per_s": _rate(sum(s.audio_s for s in good), wall_s),
        "requests_per_s": _rate(len(good), wall_s),
        "tokens_per_s": None if num_tokens is None else _rate(num_tokens, wall_s),
        "dispatch_lag_ms": spread((s.begin_s - s.planned_s for s in samples), scale=1000),
    }


def summarise_listening(samples: Sequence[Sample]) -> Point:
    """What the simulated players of a speech point went through."""
    heard = [play(s.arrivals, s.planned_s) for s in samples if s.error is None and s.arrivals]
    num_failed = sum(sample.error is not None for sample in samples)
    gaps = [gap for playback in heard for gap in playback.gaps_s]
    return {
        "first_sound_ms": spread((p.first_sound_s for p in heard), num_failed, scale=1000),
        "chunk_gap_ms": spread(gaps, scale=1000),
        "stalled_ms": spread((p.stalled_s for p in heard), num_failed, scale=1000),
        "num_underruns": sum(playback.num_underruns for playback in heard) if heard else None,
        "gap_free_share": {
            f"{budget} ms": round(
                sum(p.is_gap_free(budget / 1000) for p in heard) / max(len(samples), 1), 4
            )
            for budget in GAP_BUDGETS_MS
            if heard
        },
    }


def _wall_s(samples: Sequence[Sample]) -> float:
    if not samples:
        return 0.0
    return max(s.end_s for s in samples) - min(s.planned_s for s in samples)


def _rate(amount: float, wall_s: float) -> float:
    return round(amount / wall_s, 4) if wall_s > 0 else 0.0


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
