"""Full-size recognition in bfloat16: how soon, how much sound in a second, at how many at once."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.gpu_check import checkpoints, driving, kernels
from benchmarks.gpu_check.attempts import attempt
from benchmarks.gpu_check.driving import Heard, Turns
from benchmarks.gpu_check.part import Figures, Part
from qwen3_audio.bench.work import TOKENS_PER_S, make_sound
from qwen3_audio.engine.loading import ListeningModel
from qwen3_audio.models.mel import log_mel_16k
from qwen3_audio.types import LISTEN_RATE_HZ

CLIPS_S = (4.7, 30.0)
AT_ONCE = (1, 32, 128)
POINT_S = 5.0
MOST_ROUNDS = 8


def run(part: Part, size: str) -> None:
    at_once = (1, 2) if part.is_quick or not part.is_gpu else AT_ONCE
    clips_s = CLIPS_S if part.is_gpu and not part.is_quick else (2.0,)
    checkpoint = checkpoints.make(part, "asr", size)
    settings = driving.settings_for(part, "bfloat16", max(at_once))
    before = kernels.memory(part)
    begin_s = time.perf_counter()
    model, device = driving.load_somehow(
        part,
        lambda device: driving.load_ears(checkpoint, settings, device),
        driving.choose_device(part, settings),
    )
    kernels.wait_for(part)
    part.put("start", {"s": time.perf_counter() - begin_s, "runner": type(model.runner).__name__})
    part.put("memory", kernels.describe_memory(part, before, model.runner.decoder))
    for clip_s in reversed(clips_s):
        _measure_clips(part, model, clip_s, at_once)
    driving.check_graphs(part, device)
    part.put("memory at the end", kernels.describe_memory(part, before, model.runner.decoder))
    for clip_s in () if part.is_quick else reversed(clips_s):  # what was profiled stays slower
        _count_kernels(part, model, clip_s)


def _measure_clips(
    part: Part, model: ListeningModel, clip_s: float, at_once: Sequence[int]
) -> None:
    make = _clip_maker(model, clip_s)
    with attempt(part, f"first clip of {clip_s:g} s"):
        Turns(model.runner).run([make()])
    for number in at_once:
        name = f"{number} of {clip_s:g} s"
        if part.has_time(3.0, name):
            with attempt(part, name):
                part.put(name, measure(part, model, make, number))
    if part.has_time(5.0, "encoder alone"):
        name = f"modules alone, without graphs, {clip_s:g} s, ms"
        with attempt(part, name):
            part.put(name, time_encoder(part, model, clip_s))


def _count_kernels(part: Part, model: ListeningModel, clip_s: float) -> None:
    name = f"kernels of one of {clip_s:g} s"
    if part.has_time(5.0, name):
        with attempt(part, name):
            work = _clip_maker(model, clip_s)()
            found = kernels.profile(part, lambda: Turns(model.runner).run([work]))
            part.put(name, kernels.per_step(found, work.seq.max_tokens))


def _clip_maker(model: ListeningModel, clip_s: float) -> Callable[[], Heard]:
    samples, seeds = make_sound(clip_s, LISTEN_RATE_HZ), itertools.count()
    num_tokens = max(round(TOKENS_PER_S * clip_s), 2)
    return lambda: driving.recording(model, samples, next(seeds), num_tokens)


@torch.inference_mode()
def time_encoder(part: Part, model: ListeningModel, clip_s: float) -> Figures:
    """Milliseconds of plain calls: log-mel of one clip, and the encoder for one and for eight."""
    encoder, device = model.runner.encoder, model.runner.decoder.device
    sound = torch.tensor(make_sound(clip_s, LISTEN_RATE_HZ)).to(device)
    mel = log_mel_16k(sound)
    figures = {"mel": kernels.best_ms(part, lambda: log_mel_16k(sound))}
    for number in (1, 8) if part.is_gpu else (1,):
        mels = [mel] * number
        figures[f"encoder, {number}"] = kernels.best_ms(
            part, lambda mels=mels: encoder.encode(mels)
        )
    return figures


def measure(part: Part, model: ListeningModel, make: Callable[[], Heard], at_once: int) -> Figures:
    """A closed loop: whenever one has been heard another one begins, until the time is over."""
    turns, works = Turns(model.runner), list[Heard]()

    def begin() -> Heard:
        works.append(make())
        return works[-1]

    begin_s = time.perf_counter()
    end_s = begin_s + min(POINT_S, part.left_s - 1.0)

    def follow() -> Heard | None:
        has_more = len(works) < MOST_ROUNDS * at_once and time.perf_counter() < end_s
        return begin() if has_more or len(works) < 2 * at_once else None

    turns.run([begin() for _ in range(at_once)], follow)
    wall_s = time.perf_counter() - begin_s
    return figures_of(works, wall_s, turns.num_steps)


def figures_of(works: list[Heard], wall_s: float, num_steps: int) -> Figures:
    """How often the length was not the forced one is a figure: a random end token may be drawn."""
    latencies = [1000 * (work.end_s - work.begin_s) for work in works]
    short = sum(
        work.end is None or len(work.end.token_ids) != work.seq.max_tokens for work in works
    )
    return {
        "requests": len(works),
        "latency_ms": round(statistics.median(latencies), 1),
        "first_text_ms": round(
            statistics.median(1000 * (work.first_s - work.begin_s) for work in works), 1
        ),
        "loop_ms": round(1000 * wall_s / num_steps, 3),
        "times_real_time": round(sum(work.audio_s for work in works) / wall_s, 1),
        "requests_per_s": round(len(works) / wall_s, 2),
        "cut_short": short,
    }
