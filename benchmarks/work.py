"""What every arm does: the same words, the same sounds, the same lengths. Needs numpy alone."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS = ("custom_voice", "base", "asr")
TEXT = "The quick brown fox jumps over the lazy dog near the river."  # 12 words
REFERENCE_TEXT = "The reference words, rather more of them than a few, and then some."
REFERENCE_S, REFERENCE_RATE_HZ = 5, 24_000
CLIP_S, CLIP_RATE_HZ = 10, 16_000
NUM_FRAMES = 60
FRAME_S = 0.08
NUM_TOKENS = 35  # 3.3 a second of speech, and the language's name

Sound = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Done:
    """What one run made; the length is checked against the one that was asked for."""

    num_steps: int  # frames or tokens
    audio_s: float
    first_s: float | None = None  # until the first sound, where it comes in pieces


def make_sound(seconds: float, rate_hz: int) -> Sound:
    """A wavering tone in noise, three syllables a second; the same in every environment."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(t))
    tone = 0.3 * np.sin(2 * np.pi * 180 * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    return (tone + 0.02 * noise).astype(np.float32)


def reference() -> Sound:
    return make_sound(REFERENCE_S, REFERENCE_RATE_HZ)


def clip() -> Sound:
    return make_sound(CLIP_S, CLIP_RATE_HZ)


def check_length(done: Done, wanted: int) -> None:
    """Ends the arm: figures of unequal work would mean nothing."""
    if done.num_steps != wanted:
        raise SystemExit(f"Made {done.num_steps} frames or tokens instead of {wanted}")


def timed(run: Callable[[int], Done], seed: int) -> dict[str, float | None]:
    """One run as a row of figures."""
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    done = run(seed)
    return {
        "wall_s": round(time.perf_counter() - begin_s, 4),
        "cpu_s": round(time.process_time() - begin_cpu_s, 4),
        "first_s": None if done.first_s is None else round(done.first_s, 4),
        "audio_s": round(done.audio_s, 3),
        "load_average": round(os.getloadavg()[0], 2),
    }


def answer_orders(run: Callable[[int], Done], set_threads: Callable[[int], None]) -> None:
    """An arm's life: a line of JSON for each line read, its own peak of memory in every answer."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix in
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        set_threads(order["threads"])
        row = timed(run, order["seed"])
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(row | {"peak_mb": round(peak_bytes / 1e6)}), file=answers, flush=True)
