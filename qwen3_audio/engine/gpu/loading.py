"""Runners whose steps are graphs, put together of what was loaded."""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol

import torch
from torch import Tensor

from qwen3_audio.engine.asr import AsrSequence
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu.availability import first_sentence
from qwen3_audio.engine.gpu.codec import GpuSoundMaker
from qwen3_audio.engine.gpu.errors import is_device_error
from qwen3_audio.engine.gpu.graphs import Lane, warn_of_plain_steps
from qwen3_audio.engine.gpu.listening import GpuAsrRunner
from qwen3_audio.engine.gpu.speech import GpuSpeechRunner
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.speech_sound import SpeechSequence
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.engine.weights import GenerationDefaults
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.models.asr import AudioEncoder
from qwen3_audio.models.codec import CodecDecoder
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.talker import Talker
from qwen3_audio.types import ModelKind

log = logging.getLogger(__name__)


def speech_in_graphs(
    device: Device,
    kind: ModelKind,
    talker: Talker,
    codec: CodecDecoder,
    *,
    frames_per_s: float,
    executor: Executor | None,
    defaults: GenerationDefaults,
    decoder: PagedDecoder,
    scheduler: Scheduler[SpeechSequence],
) -> GpuSpeechRunner:
    """Captures all that ordinary steps need, which takes seconds on a GPU."""
    assert device.lanes is not None
    codec_lane, lane = device.lanes(), device.lanes()
    sound = GpuSoundMaker(
        codec,
        decoder.num_slots,
        frames_per_s=frames_per_s,
        executor=executor,
        lane=codec_lane,
    )
    runner = GpuSpeechRunner(
        kind,
        talker,
        sound,
        defaults=defaults,
        decoder=decoder,
        scheduler=scheduler,
        lane=lane,
        ops=choose_ops(device),
    )
    if device.device.type == "cuda":
        prepare(device, runner, [codec_lane, lane])
    return runner


def listening_in_graphs(
    device: Device,
    encoder: AudioEncoder,
    embedding: Tensor,
    head: Linear,
    *,
    tokenizer: TextTokenizer,
    eos_ids: tuple[int, ...],
    decoder: PagedDecoder,
    scheduler: Scheduler[AsrSequence],
) -> GpuAsrRunner:
    """Captures all that ordinary steps need, which takes seconds on a GPU."""
    assert device.lanes is not None
    lane = device.lanes()
    runner = GpuAsrRunner(
        encoder,
        embedding,
        head,
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        decoder=decoder,
        scheduler=scheduler,
        lane=lane,
        ops=choose_ops(device),
    )
    if device.device.type == "cuda":
        prepare(device, runner, [lane])
    return runner


class Prepared(Protocol):
    """A runner that can capture its steps ahead of requests."""

    def prepare(self) -> None: ...


def prepare(device: Device, runner: Prepared, lanes: Sequence[Lane]) -> None:
    """Capture what ordinary steps need; StartError if the GPU can't make them.

    What can't be captured is warned of, or stops the start where the GPU is required. A step of
    an unusual size that comes up later may always go without.
    """
    for lane in lanes:
        lane.when_plain = refuse_plain_steps if device.is_required else warn_of_plain_steps
    try:
        runner.prepare()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not is_device_error(error):
            raise
        raise StartError(
            f"The GPU failed while the steps were prepared ({first_sentence(error)}); free memory"
            " on it, load fewer or smaller checkpoints, or set QWEN_TTS_DEVICE=cpu"
        ) from error
    for lane in lanes:
        lane.when_plain = warn_of_plain_steps


def refuse_plain_steps(why: str) -> None:
    raise StartError(
        f"REQUIRE_GPU is set, but a step can't be captured as a CUDA graph ({why}), so the GPU"
        " would be slow: drop REQUIRE_GPU, or do without graphs by QWEN_CUDA_GRAPHS=false"
    )


def choose_ops(device: Device) -> FusedOps:
    """Triton's kernels; torch's where they don't work, unless the GPU is required."""
    ops = FusedOps.choose(device.device, has_fp8=device.is_fp8)
    if ops.reason is not None and device.device.type == "cuda":
        if device.is_required:
            raise StartError(
                f"REQUIRE_GPU is set, but {ops.reason}, so the GPU would be slow:"
                " install a Triton that fits this torch and card, or drop REQUIRE_GPU"
            )
        log.warning("A step's small operations are made by %s", ops)
    return ops
