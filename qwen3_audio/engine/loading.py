"""Checkpoint folders → models and runners on a device, with memory planned once, at start."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.asr import AsrRunner
from qwen3_audio.engine.kv_cache import PAGE_POSITIONS, KvPool
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.prompts import PromptBuilder
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.engine.tts import TtsRunner
from qwen3_audio.engine.weights import GenerationDefaults, Report, Weights, read_json
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.compiled import NoKernels
from qwen3_audio.kernels.cpu_predictor import CpuCodePredictor
from qwen3_audio.kernels.cpu_stack import CpuStack, KernelLinear, Kernels
from qwen3_audio.models.asr import AsrConfig, AudioEncoder, original_name
from qwen3_audio.models.codec import CodecDecoder
from qwen3_audio.models.codec_encoder import CodecEncoder
from qwen3_audio.models.configs import StackConfig, TalkerConfig
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.qwen3 import Stack
from qwen3_audio.models.speaker import SpeakerEncoder
from qwen3_audio.models.talker import Talker
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelInfo, ModelKind

log = logging.getLogger(__name__)

MAX_PREFILL_TOKENS = 2048  # prompt rows in one step, so that running requests go on
MAX_POSITIONS = 32_768  # of one request, whatever the checkpoint would allow
SLOTS = {"cpu": 16, "cuda": 64}
TYPICAL_POSITIONS = 1_024  # of one request: prompt and 60 s of speech
SHARE_OF_MEMORY = 0.25  # of what is free, for the keys and values of one checkpoint


@dataclass(frozen=True, slots=True)
class Device:
    """Where everything runs and in which precision."""

    device: torch.device
    dtype: torch.dtype  # of the weights
    kernels: Kernels | None = None  # compiled ones, on a CPU that has a C compiler

    @property
    def activations(self) -> torch.dtype:
        """With the kernels, small weights meet exact activations."""
        return torch.float32 if self.kernels else self.dtype

    @classmethod
    def choose(cls, settings: Settings) -> "Device":
        """Raises StartError if a named GPU is not there."""
        has_gpu = torch.cuda.is_available()
        name = settings.qwen_tts_device or ("cuda:0" if has_gpu else "cpu")
        device = torch.device(name)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise StartError(
                f"QWEN_TTS_DEVICE is {name}, but torch sees {torch.cuda.device_count()} GPUs; "
                "`qwen3-audio doctor` says why, QWEN_TTS_DEVICE=cpu runs without one"
            )
        dtype = _dtype(settings.qwen_tts_dtype, device)
        return cls(device, dtype, _kernels(settings) if device.type == "cpu" else None)


def _kernels(settings: Settings) -> Kernels | None:
    try:
        return Kernels(settings.cache_dir / "kernels", torch.get_num_threads())
    except NoKernels as why:
        log.warning("No compiled kernels: %s. Everything works, slower", why)
        return None


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        if name == "int8":
            raise StartError("QWEN_TTS_DTYPE=int8 is for CPUs; on a GPU use bfloat16")
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if name == "int8":
        raise StartError("QWEN_TTS_DTYPE=int8 is not built yet; use bfloat16 or float32")
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if name == "bfloat16" and has_bfloat16 else torch.float32


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """A loaded TTS checkpoint: its runner, and what its requests are prepared with."""

    info: ModelInfo
    runner: TtsRunner
    prompts: PromptBuilder
    frames_per_s: float
    samples_per_frame: int
    sample_rate_hz: int
    speaker_encoder: SpeakerEncoder | None = None
    codec_encoder: CodecEncoder | None = None


@dataclass(frozen=True, slots=True)
class ListeningModel:
    """A loaded ASR checkpoint."""

    info: ModelInfo
    runner: AsrRunner
    tokenizer: TextTokenizer


def load_speech(
    checkpoint: Checkpoint, settings: Settings, device: Device, report: Report
) -> SpeechModel:
    """Load a TTS folder; raises StartError naming what is missing or damaged."""
    folder = checkpoint.folder
    config = TalkerConfig.from_json(read_json(folder / "config.json"))
    weights = Weights(folder, dtype=device.dtype, device=device.device, report=report)
    codec_config = read_json(folder / "speech_tokenizer" / "config.json")
    codec_weights = _codec_weights(folder, device, report)
    codec = CodecDecoder.from_weights(codec_config, codec_weights, dtype=device.dtype)
    talker = Talker(config, weights, device.activations)
    decoder = _paged_decoder(talker.stack, settings, device, MAX_POSITIONS)
    predict = None
    if device.kernels is not None:
        predict = CpuCodePredictor(device.kernels, talker.predictor, decoder.num_slots)
        talker.head = KernelLinear(device.kernels, talker.head)
    runner = TtsRunner(
        checkpoint.kind,
        talker,
        codec,
        defaults=GenerationDefaults.read(folder),
        decoder=decoder,
        scheduler=_scheduler(settings, decoder),
        predict=predict,
    )
    rate_hz = codec_config.get("output_sample_rate", 24_000)
    per_frame = codec_config.get("decode_upsample_rate", 1920)
    return SpeechModel(
        info=_speech_info(checkpoint, config),
        runner=runner,
        prompts=PromptBuilder(config, TextTokenizer(folder)),
        frames_per_s=rate_hz / per_frame,
        samples_per_frame=per_frame,
        sample_rate_hz=rate_hz,
        **_reference_encoders(checkpoint, codec_config, device),
    )


def _codec_weights(folder: Path, device: Device, report: Report | None = None) -> Weights:
    """In float32 as they are stored; the decoder casts what it computes in less."""
    return Weights(
        folder / "speech_tokenizer", dtype=torch.float32, device=device.device, report=report
    )


def _reference_encoders(
    checkpoint: Checkpoint, codec_config: dict[str, Any], device: Device
) -> dict[str, Any]:
    """Only a Base checkpoint hears references; both encoders run in float32."""
    if checkpoint.kind is not ModelKind.BASE:
        return {}
    exact = Weights(checkpoint.folder, dtype=torch.float32, device=device.device)
    codec = _codec_weights(checkpoint.folder, device)
    speaker_config = read_json(checkpoint.folder / "config.json").get("speaker_encoder_config", {})
    return {
        "speaker_encoder": SpeakerEncoder.from_weights(speaker_config, exact),
        "codec_encoder": CodecEncoder.from_weights(codec_config, codec),
    }


def _speech_info(checkpoint: Checkpoint, config: TalkerConfig) -> ModelInfo:
    return ModelInfo(
        kind=checkpoint.kind,
        name=checkpoint.folder.resolve().name,
        languages=tuple(name.capitalize() for name in config.languages),
        speakers=tuple(config.speakers),
        takes_instructions=config.takes_instructions,
        max_prompt_tokens=min(config.stack.max_positions, MAX_POSITIONS),
    )


def load_listening(
    checkpoint: Checkpoint, settings: Settings, device: Device, report: Report
) -> ListeningModel:
    """Load an ASR folder of either layout; raises StartError naming what is missing or damaged."""
    folder = checkpoint.folder
    config = AsrConfig.from_json(read_json(folder / "config.json"))
    weights = Weights(
        folder, dtype=device.dtype, device=device.device, report=report, name_of=original_name
    )
    stack = Stack(config.stack, weights, "thinker.model.", device.activations)
    embedding = weights["thinker.model.embed_tokens.weight"]
    decoder = _paged_decoder(stack, settings, device, MAX_POSITIONS)
    tokenizer = TextTokenizer(folder)
    defaults = GenerationDefaults.read(folder)
    runner = AsrRunner(
        AudioEncoder(config.audio, weights),
        embedding,
        _head(weights, embedding, folder, device),
        tokenizer=tokenizer,
        eos_ids=defaults.eos_ids or (tokenizer.special("<|im_end|>"),),
        decoder=decoder,
        scheduler=_scheduler(settings, decoder),
    )
    info = ModelInfo(
        kind=ModelKind.ASR,
        name=folder.resolve().name,
        languages=config.languages,
        max_prompt_tokens=decoder.pool.max_positions,
    )
    return ListeningModel(info, runner, tokenizer)


def _head(weights: Weights, embedding: Tensor, folder: Path, device: Device) -> Linear:
    """The head is tied to the embedding, of which the official files hold a second copy."""
    config = read_json(folder / "config.json")
    text = config.get("thinker_config", config).get("text_config", {})
    name = "thinker.lm_head.weight"
    is_tied = text.get("tie_word_embeddings", True) or name not in weights
    head = Linear(embedding if is_tied else weights[name])
    return head if device.kernels is None else KernelLinear(device.kernels, head)


def _paged_decoder(
    stack: Stack, settings: Settings, device: Device, max_positions: int
) -> PagedDecoder:
    config = stack.config
    max_positions = min(config.max_positions, max_positions)
    num_slots = settings.max_running or SLOTS[device.device.type]
    wanted = max(num_slots * TYPICAL_POSITIONS, max_positions)
    affordable = int(
        free_memory_bytes(device.device) * SHARE_OF_MEMORY / _position_bytes(config, device.dtype)
    )
    num_pages = max(min(wanted, affordable) // PAGE_POSITIONS, 1)
    pool = KvPool(
        config,
        num_pages=num_pages,
        num_slots=num_slots,
        max_positions=min(max_positions, num_pages * PAGE_POSITIONS),
        dtype=device.dtype,
        device=device.device,
    )
    cpu_stack = None
    if device.kernels is not None:
        cpu_stack = CpuStack(device.kernels, stack, [], num_slots)
    return PagedDecoder(stack, pool, num_slots, cpu_stack)


def _position_bytes(config: StackConfig, dtype: torch.dtype) -> int:
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


def free_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _scheduler(settings: Settings, decoder: PagedDecoder) -> Scheduler[Any]:
    return Scheduler(
        num_slots=decoder.num_slots,
        max_prefill_tokens=MAX_PREFILL_TOKENS,
        max_waiting=settings.max_waiting,
        memory=decoder.pool.book,
    )


LOADERS: dict[ModelKind, Callable[..., Any]] = {
    ModelKind.CUSTOM_VOICE: load_speech,
    ModelKind.VOICE_DESIGN: load_speech,
    ModelKind.BASE: load_speech,
    ModelKind.ASR: load_listening,
}
