"""What a CPU does with full-size random checkpoints, over HTTP: each figure with its bound.

speech     one stream and four together, the time to the first sound, peak memory
listening  a recording of 10 s, one of 10 minutes, eight at once against one by one, peak memory
positions  the time for a frame late in a long speech against early
start      from nothing to an open port, beyond a bare `import torch`

Lengths are forced and the sampler is on. Exit code 1 if a bound is missed.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import check_all, format_table, say, write_result
from qwen3_audio.bench.http_client import HttpTarget
from qwen3_audio.bench.loops import closed_loop
from qwen3_audio.bench.memory import measure_bare_torch, peak_memory_bytes
from qwen3_audio.bench.own_server import OwnServer, run_own_server
from qwen3_audio.bench.player import play
from qwen3_audio.bench.random_checkpoints import SIZES, write_checkpoints
from qwen3_audio.bench.results import load_average
from qwen3_audio.bench.sample import Arrival, Sample
from qwen3_audio.bench.speech_request import SpeechRun
from qwen3_audio.bench.transcription_request import TranscriptionRun, make_clip
from qwen3_audio.bench.work import CLIP_S, NUM_FRAMES, TEXT, count_tokens
from qwen3_audio.progress import counting_progress

DTYPES = ("int8", "bfloat16")
NUM_STREAMS, NUM_CLIPS = 4, 8
LONG_CLIP_S = 600
EARLY_FRAME, LATE_FRAME, FRAMES_AROUND = 50, 1000, 25
LONG_TEXT = " ".join([TEXT] * 8)  # enough for 1,025 frames, and still one prompt
NUM_STARTS = 3
# What the first figure of each name may be; those with a dot behind are for one precision alone.
AT_MOST = {
    "speech rtf.int8": 1.00,
    "speech rtf.bfloat16": 1.5,
    "speech first_sound_ms.int8": 400,
    "listening clip_s.bfloat16": 1.7,
    "listening clip_s.int8": 1.2,
    "listening long_rtf.int8": 0.07,
    "speech gb_above_torch.int8": 1.6,
    "listening gb_above_torch.int8": 1.4,
    "positions late_over_early.int8": 1.25,
    "start s_above_torch.int8": 5.0,
    "start s_above_torch.bfloat16": 5.0,
}
AT_LEAST = {
    "speech together_audio_s_per_s.int8": 2.2,
    "listening at_once_over_one_by_one.int8": 2.5,
}

Figures = dict[str, Any]


class Bench:
    """Where checkpoints and caches lie, how often each figure is taken, on how many threads."""

    def __init__(self, home: Path, size: str, repeats: int, threads: int | None) -> None:
        self.home, self.size, self.repeats = home, size, repeats
        self.variables = {"XDG_CACHE_HOME": str(home / "cache")}
        if threads is not None:
            self.variables["OMP_NUM_THREADS"] = str(threads)
        self.torch_bytes = measure_bare_torch()[1]

    @contextmanager
    def serve(self, kinds: Sequence[str], dtype: str) -> Iterator[OwnServer]:
        """The second start: compiled kernels and int8 weights are in their cache by then."""
        arguments = self.arguments(kinds, dtype)
        say(f"{' + '.join(kinds)} in {dtype}: a first start to fill the caches")
        with run_own_server(arguments, self.variables):
            pass
        with run_own_server(arguments, self.variables) as server:
            yield server

    def arguments(self, kinds: Sequence[str], dtype: str) -> list[str]:
        folders = write_checkpoints(self.home / self.size, kinds, SIZES[self.size])
        paths = [word for folder in folders for word in ("--model-path", str(folder))]
        return [*paths, "--device", "cpu", "--dtype", dtype]

    def gb_above_torch(self, server: OwnServer) -> float | None:
        peak_bytes = peak_memory_bytes(server.pid)
        if peak_bytes is None or self.torch_bytes is None:
            return None
        return round((peak_bytes - self.torch_bytes) / 1e9, 3)


def measure_speech(bench: Bench, dtype: str) -> Figures:
    with bench.serve(["custom_voice"], dtype) as server:
        run = _speech_run(server, TEXT, NUM_FRAMES)
        _ask(run, 1, 1, "warm up")
        alone = _ask(run, bench.repeats, 1, f"one stream in {dtype}")
        rounds = [
            _ask(run, NUM_STREAMS, NUM_STREAMS, f"{NUM_STREAMS} streams in {dtype}")
            for _ in range(bench.repeats)
        ]
        return {
            "rtf": _spread([s.latency_s / s.audio_s for s in alone]),
            "first_sound_ms": _spread(
                [1000 * play(s.arrivals, s.planned_s).first_sound_s for s in alone]
            ),
            "together_audio_s_per_s": _spread([_audio_s_per_s(one) for one in rounds], best=max),
            "gb_above_torch": bench.gb_above_torch(server),
            "where": server.where,
            "load_average": load_average(),
        }


def measure_listening(bench: Bench, dtype: str) -> Figures:
    with bench.serve(["asr"], dtype) as server:
        target = HttpTarget(server.address)
        short, long = (
            TranscriptionRun(
                target=target,
                clips=[make_clip(seconds)],
                num_tokens=count_tokens(seconds),
                is_ours=True,
            )
            for seconds in (CLIP_S, LONG_CLIP_S)
        )
        _ask(short, 1, 1, "warm up")
        alone = _ask(short, bench.repeats, 1, f"{CLIP_S} s in {dtype}")
        clip_gb = bench.gb_above_torch(server)
        gains = []
        for _ in range(bench.repeats):
            one_by_one = _ask(short, NUM_CLIPS, 1, f"{NUM_CLIPS} clips one by one")
            at_once = _ask(short, NUM_CLIPS, NUM_CLIPS, f"{NUM_CLIPS} clips at once")
            gains.append(_audio_s_per_s(at_once) / _audio_s_per_s(one_by_one))
        far = _ask(long, 1, 1, f"{LONG_CLIP_S} s in {dtype}")
        return {
            "clip_s": _spread([s.latency_s for s in alone]),
            "at_once_over_one_by_one": _spread(gains, best=max),
            "long_rtf": _spread([s.latency_s / s.audio_s for s in far]),
            "gb_above_torch": clip_gb,
            "long_gb_above_torch": bench.gb_above_torch(server),
            "where": server.where,
            "load_average": load_average(),
        }


def measure_positions(bench: Bench, dtype: str) -> Figures:
    num_frames = LATE_FRAME + FRAMES_AROUND
    with bench.serve(["custom_voice"], dtype) as server:
        run = _speech_run(server, LONG_TEXT, num_frames)
        _ask(_speech_run(server, LONG_TEXT, NUM_FRAMES), 1, 1, "warm up")
        sample = _ask(run, 1, 1, f"{num_frames} frames in {dtype}")[0]
    early, late = (ms_per_frame(sample.arrivals, frame) for frame in (EARLY_FRAME, LATE_FRAME))
    return {
        "early_ms": round(early, 2),
        "late_ms": round(late, 2),
        "late_over_early": round(late / early, 3),
        "load_average": load_average(),
    }


def measure_start(bench: Bench, dtype: str) -> Figures:
    """Both models. The first start fills the caches; then bare Pythons and servers take turns."""
    arguments = bench.arguments(["custom_voice", "asr"], dtype)
    starts_s, torch_s = [], []
    for number in range(NUM_STARTS + 1):
        say(f"Start {number} of {NUM_STARTS} in {dtype}")
        torch_s.append(measure_bare_torch()[0])
        with run_own_server(arguments, bench.variables) as server:
            starts_s.append(server.start_s)
    above = [start - bare for start, bare in zip(starts_s, torch_s, strict=True)]
    return {
        "s_above_torch": _spread(above[1:]),
        "import_torch_s": _spread(torch_s[1:]),
        "load_average": load_average(),
    }


PARTS: dict[str, Callable[[Bench, str], Figures]] = {
    "speech": measure_speech,
    "listening": measure_listening,
    "positions": measure_positions,
    "start": measure_start,
}


def ms_per_frame(arrivals: Sequence[Arrival], frame: int) -> float:
    """Around a frame: between the arrivals that complete the first and the last of them."""
    passed, heard_s = [], 0.0
    low, high = (frame + side for side in (-FRAMES_AROUND, FRAMES_AROUND))
    for arrival in arrivals:
        heard_s += arrival.audio_s
        num_frames = round(heard_s / 0.08)
        passed.append((num_frames, arrival.at_s))
    first = next(one for one in passed if one[0] >= low)
    last = next(one for one in passed if one[0] >= high)
    return 1000 * (last[1] - first[1]) / (last[0] - first[0])


def _speech_run(server: OwnServer, text: str, num_frames: int) -> SpeechRun:
    return SpeechRun(
        target=HttpTarget(server.address),
        texts=(text,),
        voice="ryan",
        num_frames=num_frames,
        is_ours=True,
    )


def _ask(
    run: Callable[[int, float], Sample], num_requests: int, at_once: int, what: str
) -> list[Sample]:
    """Ends the program if a request fails: figures of unequal work would mean nothing."""
    with counting_progress(what, num_requests, say) as advance:
        samples = closed_loop(
            run, concurrency=at_once, num_requests=num_requests, duration_s=0, on_done=advance
        )
    errors = {sample.error for sample in samples} - {None}
    if errors:
        raise SystemExit(f"{what}: {', '.join(map(str, errors))}")
    return samples


def _audio_s_per_s(samples: Sequence[Sample]) -> float:
    wall_s = max(s.end_s for s in samples) - min(s.begin_s for s in samples)
    return sum(s.audio_s for s in samples) / wall_s


def _spread(values: Sequence[float], best: Callable[..., float] = min) -> dict[str, float]:
    worst = max if best is min else min
    return {
        "median": round(statistics.median(values), 4),
        "best": round(best(values), 4),
        "worst": round(worst(values), 4),
    }


def judge(results: dict[str, Figures]) -> dict[str, bool]:
    """Every bound of what was measured; medians count."""
    checks = {}
    for bounds, sign in ((AT_MOST, "<="), (AT_LEAST, ">=")):
        for name, bound in bounds.items():
            path, dtype = name.split(".")
            part, key = path.split(" ")
            figure = results.get(f"{part} {dtype}", {}).get(key)
            figure = figure["median"] if isinstance(figure, dict) else figure
            if figure is not None:
                is_kept = figure <= bound if sign == "<=" else figure >= bound
                checks[f"{part} in {dtype}: {key} {figure} {sign} {bound}"] = is_kept
    return checks


def describe(results: dict[str, Figures]) -> str:
    rows = []
    for what, figures in results.items():
        for key, figure in figures.items():
            cells = figure.values() if isinstance(figure, dict) else (figure, "", "")
            rows.append([what, key, *cells])
    return format_table(["", "figure", "median", "best", "worst"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: both")
    parser.add_argument("--size", choices=SIZES, default="0.6b")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the server; default: its own choice")
    parser.add_argument("--checkpoints", type=Path, help="keep them here and use them again")
    given = parser.parse_args(arguments)
    results = {}
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-bench-") as scratch:
        home = (given.checkpoints or Path(scratch)).absolute()
        bench = Bench(home, given.size, given.repeats, given.threads)
        for part in given.part or PARTS:
            for dtype in given.dtype or DTYPES:
                results[f"{part} {dtype}"] = PARTS[part](bench, dtype)
    print(describe(results))
    if given.size == "0.6b":  # the bounds are for this one
        write_result("cpu", results)
    return check_all(judge(results))


if __name__ == "__main__":
    sys.exit(main())
