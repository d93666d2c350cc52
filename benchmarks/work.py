"""What every arm does: the same words, the same sounds, the same lengths. Needs numpy alone."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from qwen3_audio.bench.work import (
    CLIP_RATE_HZ,
    CLIP_S,
    FRAME_S,
    NUM_FRAMES,
    TEXT,
    Sound,
    count_tokens,
    make_sound,
)

__all__ = ["CLIP_RATE_HZ", "CLIP_S", "FRAME_S", "NUM_FRAMES", "TEXT", "make_sound"]

KINDS = ("custom_voice", "base", "asr")
REFERENCE_TEXT = "The reference words, rather more of them than a few, and then some."
REFERENCE_S, REFERENCE_RATE_HZ = 5, 24_000
NUM_TOKENS = count_tokens(CLIP_S)


@dataclass(frozen=True, slots=True)
class Done:
    """What one run made; the length is checked against the one that was asked for."""

    num_steps: int  # frames or tokens
    audio_s: float
    first_s: float | None = None  # until the first sound, where it comes in pieces


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
