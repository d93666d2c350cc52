"""What both sides of a comparison share: an arm is a process that runs once a line it reads.

Runs in the official packages' environments too: standard library and numpy only.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[int], dict[str, float]]


def serve_runs(make_run: Callable[[dict[str, Any]], Run]) -> None:
    """The first line is the order, every later one a seed; answers with one JSON line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the packages print; only answers go to our standard output
    run = make_run(json.loads(sys.stdin.readline()))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(int(line))), file=answers, flush=True)


def draw_sound(duration_s: float, rate_hz: int) -> NDArray[np.float32]:
    """A humming voice of sorts, the same for every arm."""
    t = np.arange(int(duration_s * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(t))
    tone = np.sin(2 * np.pi * 180 * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    return (0.3 * tone + 0.02 * noise).astype(np.float32)
