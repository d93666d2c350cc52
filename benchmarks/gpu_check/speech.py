"""A full-size voice in bfloat16 or fp8: how soon, how fast, how many at once; kernels, memory."""

import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch

from benchmarks.gpu_check import checkpoints, driving, kernels
from benchmarks.gpu_check.attempts import attempt
from benchmarks.gpu_check.driving import Spoken, Turns
from benchmarks.gpu_check.part import Figures, Part
from qwen3_audio.bench.figures import percentile
from qwen3_audio.bench.work import FRAME_S, TEXT
from qwen3_audio.engine.loading import SpeechModel
from qwen3_audio.kernels.fused.fp8 import why_no_fp8
from qwen3_audio.models import codec_layers
from qwen3_audio.models.code_predictor import FrameCache
from qwen3_audio.types import ModelKind, SpeechRequest

NUM_FRAMES = 60  # 4.8 s of sound for 12 words
STREAMS = (1, 8, 32, 64)
FEW_STREAMS = (1, 32)  # in fp8
POINT_S = 5.0  # of measuring, for each number of streams
MOST_ROUNDS = 6
FIRST_FRAMES_S = 2 * FRAME_S


def run(part: Part, size: str, dtype: str = "bfloat16") -> None:
    if dtype == "fp8" and part.is_gpu and (why := why_no_fp8(torch.device(part.device))):
        part.note(why)
        return
    streams = FEW_STREAMS if dtype == "fp8" else STREAMS
    if part.is_quick or not part.is_gpu:
        streams = (1, 2)
    checkpoint = checkpoints.make(part, ModelKind.CUSTOM_VOICE.value, size)
    settings = driving.settings_for(part, dtype, max(streams))
    before = kernels.memory(part)
    begin_s = time.perf_counter()
    model, device = driving.load_somehow(
        part,
        lambda device: driving.load_voice(checkpoint, settings, device),
        driving.choose_device(part, settings),
    )
    kernels.wait_for(part)
    part.put("start", {"s": time.perf_counter() - begin_s, "runner": type(model.runner).__name__})
    part.put("memory", kernels.describe_memory(part, before, model.runner.decoder))
    request = _request_maker(model, 20 if part.is_quick else NUM_FRAMES)
    turns = Turns(model.runner)
    with attempt(part, "first speeches"):
        for _ in range(2):
            turns.run([driving.speech(model, request())])  # whatever is made at first use
    for num_streams in streams:
        name = f"{num_streams} streams"
        if part.has_time(3.0, name):
            with attempt(part, name):
                part.put(name, measure(part, model, request, num_streams))
    driving.check_graphs(part, device)
    part.put("memory at the end", kernels.describe_memory(part, before, model.runner.decoder))
    if dtype == "bfloat16":
        _look_closer(part, model, request)


def _look_closer(part: Part, model: SpeechModel, request: Callable[[], SpeechRequest]) -> None:
    if part.has_time(5.0, "modules alone"):
        with attempt(part, "modules alone"):
            part.put("modules alone, without graphs, ms", time_modules(part, model))
    if part.has_time(5.0, "convolutions alone"):
        with attempt(part, "convolutions alone"):
            part.put("codec alone, as a graph, ms", time_convolutions(part, model))
    for num_streams in (1, 32) if part.is_gpu else (1,):  # last: what was profiled stays slower
        if part.has_time(5.0, f"kernels of {num_streams}"):
            with attempt(part, f"kernels at {num_streams}"):
                _count_kernels(part, model, request, num_streams)


def _request_maker(model: SpeechModel, num_frames: int) -> Callable[[], SpeechRequest]:
    seeds = itertools.count()

    def make() -> SpeechRequest:
        return SpeechRequest(
            ModelKind.CUSTOM_VOICE,
            TEXT,
            next(seeds),
            language="English",
            speaker=model.info.speakers[0],
            max_frames=num_frames,
        )

    return make


def measure(
    part: Part, model: SpeechModel, request: Callable[[], SpeechRequest], num_streams: int
) -> Figures:
    """A closed loop: whenever one has spoken another one begins, until the time is over."""
    turns, works = Turns(model.runner), list[Spoken]()

    def begin() -> Spoken:
        works.append(driving.speech(model, request()))
        return works[-1]

    begin_s = time.perf_counter()
    end_s = begin_s + min(POINT_S, part.left_s - 1.0)

    def follow() -> Spoken | None:
        has_more = len(works) < MOST_ROUNDS * num_streams and time.perf_counter() < end_s
        return begin() if has_more or len(works) < 2 * num_streams else None

    turns.run([begin() for _ in range(num_streams)], follow)
    wall_s = time.perf_counter() - begin_s
    return figures_of(works, wall_s, turns.num_steps)


def figures_of(works: list[Spoken], wall_s: float, num_steps: int) -> Figures:
    """Of complete speeches; a wrong length would make them worthless."""
    for work in works:
        if len(work.codes) != work.seq.max_frames:
            raise RuntimeError(f"{len(work.codes)} frames instead of {work.seq.max_frames}")
    played = [work.playback for work in works]
    first = [1000 * work.first_s(FRAME_S) for work in works]
    two = [1000 * work.first_s(FIRST_FRAMES_S) for work in works]
    rtfs = [(work.arrivals[-1].at_s - work.begin_s) / work.audio_s for work in works]
    steps = [_step_ms(work) for work in works]
    return {
        "requests": len(works),
        "first_frame_ms": round(statistics.median(first), 2),
        "two_frames_ms": round(statistics.median(two), 2),
        "two_frames_p95_ms": round(percentile(two, 95), 2),
        "step_ms": round(statistics.median(steps), 3),
        "loop_ms": round(1000 * wall_s / num_steps, 3),
        "rtf": round(statistics.median(rtfs), 4),
        "audio_s_per_s": round(sum(work.audio_s for work in works) / wall_s, 1),
        "underruns": sum(one.num_underruns for one in played),
        "gap_free": round(sum(one.is_gap_free(0.0) for one in played) / len(played), 4),
    }


def _step_ms(work: Spoken) -> float:
    """For a frame, between the first piece of sound and the last."""
    first, last = work.arrivals[0], work.arrivals[-1]
    num_frames = (work.audio_s - first.audio_s) / FRAME_S
    return 1000 * (last.at_s - first.at_s) / num_frames if num_frames else 0.0


@torch.inference_mode()
def time_modules(part: Part, model: SpeechModel) -> Figures:
    """Milliseconds of plain calls: what captured steps have to beat."""
    talker, codec, device = model.runner.talker, model.runner.sound.codec, model.runner.pad.device
    figures = {}
    for rows in (1, 32) if part.is_gpu else (1,):
        hidden = torch.randn(rows, talker.config.stack.hidden_size, device=device)
        hidden = hidden.to(talker.stack.activations)
        cache = FrameCache(talker.predictor, rows)
        figures[f"code predictor, {rows}"] = kernels.best_ms(
            part,
            lambda hidden=hidden, cache=cache: talker.predictor(
                hidden, hidden, lambda logits, group: logits.argmax(-1), cache
            ),
        )
        state, slots = codec.new_state(rows), torch.arange(rows, device=device)
        for num_frames in (1, 8):
            shape = (rows, num_frames, talker.config.num_code_groups)
            codes = torch.zeros(shape, dtype=torch.int64, device=device)
            figures[f"codec, {rows} x {num_frames} frames"] = kernels.best_ms(
                part,
                lambda codes=codes, state=state, slots=slots: codec.decode(codes, state, slots),
            )
    return figures


@torch.inference_mode()
def time_convolutions(part: Part, model: SpeechModel) -> Figures:
    """Milliseconds by the positions from which conv2d takes the place of a product."""
    codec, device, clock = model.runner.sound.codec, model.runner.pad.device, kernels.Clock(part)
    figures, num_groups = {}, model.runner.talker.config.num_code_groups
    for rows, num_frames in ((1, 1), (8, 8), (32, 8)) if part.is_gpu else ((1, 1),):
        state, slots = codec.new_state(rows), torch.arange(rows, device=device)
        codes = torch.zeros(rows, num_frames, num_groups, dtype=torch.int64, device=device)
        for name, least in (("always", 0), ("from 640", 640), ("never", 1 << 62)):
            with patch.object(codec_layers, "_DEFAULT_MIN_CONV_ROWS", least):
                time_ms = clock.ms(partial(codec.decode, codes, state, slots))
            figures[f"{rows} x {num_frames} frames, conv2d {name}"] = round(time_ms, 3)
    return figures


def _count_kernels(
    part: Part, model: SpeechModel, request: Callable[[], SpeechRequest], num_streams: int
) -> None:
    """Everything of a few short speeches: prompts and codec too."""
    num_frames = 16 if part.is_gpu else 3
    works = [driving.speech(model, request()) for _ in range(num_streams)]
    for work in works:
        work.seq.max_frames = num_frames
    found = kernels.profile(part, lambda: Turns(model.runner).run(works))
    part.put(f"kernels at {num_streams}", kernels.per_step(found, num_frames))
