"""Runners whose steps are graphs, put together of what was loaded."""

import logging
from concurrent.futures import Executor

from torch import Tensor

from qwen3_audio.engine.asr import AsrSequence
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu.codec import GpuSoundMaker
from qwen3_audio.engine.gpu.listening import GpuAsrRunner
from qwen3_audio.engine.gpu.speech import GpuSpeechRunner
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.speech_sound import SpeechSequence
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.engine.weights import GenerationDefaults
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
    sound = GpuSoundMaker(
        codec,
        decoder.num_slots,
        frames_per_s=frames_per_s,
        executor=executor,
        lane=device.lanes(),
    )
    runner = GpuSpeechRunner(
        kind,
        talker,
        sound,
        defaults=defaults,
        decoder=decoder,
        scheduler=scheduler,
        lane=device.lanes(),
        ops=_choose_ops(device),
    )
    if device.device.type == "cuda":
        runner.prepare()
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
    runner = GpuAsrRunner(
        encoder,
        embedding,
        head,
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        decoder=decoder,
        scheduler=scheduler,
        lane=device.lanes(),
        ops=_choose_ops(device),
    )
    if device.device.type == "cuda":
        runner.prepare()
    return runner


def _choose_ops(device: Device) -> FusedOps:
    ops = FusedOps.choose(device.device)
    if ops.reason is not None and device.device.type == "cuda":
        log.warning("A step's small operations are made by %s", ops)
    return ops
