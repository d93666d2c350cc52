"""Checkpoint folders → models and runners on a device, with memory planned once, at start."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.asr import AsrRunner, ListeningRunner
from qwen3_audio.engine.codecs import SharedCodecs, codec_weights
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu.loading import listening_in_graphs, speech_in_graphs
from qwen3_audio.engine.kv_cache import PAGE_POSITIONS, KvPool
from qwen3_audio.engine.memory import (
    LISTENING_SLOTS,
    MAX_POSITIONS,
    SLOTS,
    plan_room,
    position_bytes,
    share_of_free_memory,
)
from qwen3_audio.engine.paged_decoder import PagedDecoder, count_streams
from qwen3_audio.engine.prompts import PromptBuilder
from qwen3_audio.engine.sampling import choose_on, log_sum_on
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.speech_sound import SoundMaker
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.engine.tts import SpeechRunner, TtsRunner
from qwen3_audio.engine.weights import (
    GenerationDefaults,
    Report,
    Weights,
    naming,
    read_json,
    weight_files,
)
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.cpu_predictor import CpuCodePredictor
from qwen3_audio.kernels.cpu_stack import CpuStack
from qwen3_audio.kernels.int8_weights import Int8Weights, cache_path
from qwen3_audio.kernels.numba_products import NumbaWeights
from qwen3_audio.kernels.products import Int8Linear, KernelLinear
from qwen3_audio.models.asr import AsrConfig, AudioEncoder, original_name
from qwen3_audio.models.codec import CodecDecoder
from qwen3_audio.models.codec_encoder import CodecEncoder
from qwen3_audio.models.configs import TalkerConfig
from qwen3_audio.models.linear import Linear, load_linear
from qwen3_audio.models.qwen3 import Stack
from qwen3_audio.models.speaker import SpeakerEncoder
from qwen3_audio.models.talker import Talker
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelInfo, ModelKind

T = TypeVar("T")

MAX_PREFILL_TOKENS = 2048  # prompt rows in one step, so that running requests go on


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """A loaded TTS checkpoint: its runner, and what its requests are prepared with."""

    info: ModelInfo
    runner: SpeechRunner
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
    runner: ListeningRunner
    tokenizer: TextTokenizer


def load_speech(
    checkpoint: Checkpoint,
    settings: Settings,
    device: Device,
    report: Report,
    *,
    codecs: SharedCodecs | None = None,
    codec_threads: Executor | None = None,
    room_bytes: int | None = None,
) -> SpeechModel:
    """Load a TTS folder; raises StartError naming what is missing or damaged."""
    folder = checkpoint.folder
    with naming(folder / "config.json"):
        config = TalkerConfig.from_json(read_json(folder / "config.json"))
    codec = (codecs or SharedCodecs(device)).load(folder, report)
    weights = Weights(folder, dtype=device.dtype, device=device.device, report=report)
    talker = _build(
        lambda source: Talker(config, source, device.activations),
        weights,
        checkpoint,
        settings,
        device,
    )
    check_shapes(talker.stack, folder)
    check_shapes(talker.predictor.stack, folder)
    slot_bytes = sum(tensor.nbytes for tensor in codec.decoder.new_state(1).tensors())
    decoder = _paged_decoder(talker.stack, settings, device, room_bytes, slot_bytes)
    rate_hz = codec.config.get("output_sample_rate", 24_000)
    per_frame = codec.config.get("decode_upsample_rate", 1920)
    make_runner = speech_in_graphs if device.lanes is not None else _speech_runner
    runner = make_runner(
        device,
        checkpoint.kind,
        talker,
        codec.decoder,
        frames_per_s=rate_hz / per_frame,
        executor=codec_threads,
        defaults=GenerationDefaults.read(folder),
        decoder=decoder,
        scheduler=_scheduler(settings, decoder),
    )
    return SpeechModel(
        info=_speech_info(checkpoint, config, decoder),
        runner=runner,
        prompts=PromptBuilder(config, TextTokenizer(folder)),
        frames_per_s=rate_hz / per_frame,
        samples_per_frame=per_frame,
        sample_rate_hz=rate_hz,
        **_reference_encoders(checkpoint, codec.config, device),
    )


def _speech_runner(
    device: Device,
    kind: ModelKind,
    talker: Talker,
    codec: CodecDecoder,
    *,
    frames_per_s: float,
    executor: Executor | None,
    decoder: PagedDecoder,
    **parts: Any,
) -> TtsRunner:
    predict, num_slots = None, decoder.num_slots
    if device.kernels is not None:
        predict = CpuCodePredictor(device.kernels, talker.predictor, num_slots)
        talker.head = _kernel_linear(talker.head, device)
    sound = SoundMaker(codec, num_slots, frames_per_s=frames_per_s, executor=executor)
    choose = choose_on(device.kernels)
    return TtsRunner(kind, talker, sound, decoder=decoder, predict=predict, choose=choose, **parts)


def _reference_encoders(
    checkpoint: Checkpoint, codec_config: dict[str, Any], device: Device
) -> dict[str, Any]:
    """Only a Base checkpoint hears references; both encoders run in float32."""
    if checkpoint.kind is not ModelKind.BASE:
        return {}
    exact = Weights(checkpoint.folder, dtype=torch.float32, device=device.device)
    codec = codec_weights(checkpoint.folder, device)
    speaker_config = read_json(checkpoint.folder / "config.json").get("speaker_encoder_config", {})
    return {
        "speaker_encoder": SpeakerEncoder.from_weights(speaker_config, exact),
        "codec_encoder": CodecEncoder.from_weights(codec_config, codec),
    }


def _speech_info(checkpoint: Checkpoint, config: TalkerConfig, decoder: PagedDecoder) -> ModelInfo:
    return ModelInfo(
        kind=checkpoint.kind,
        name=checkpoint.name,
        languages=tuple(name.capitalize() for name in config.languages),
        speakers=tuple(config.speakers),
        takes_instructions=config.takes_instructions,
        max_prompt_tokens=min(config.stack.max_positions, MAX_POSITIONS),
        fingerprint=_fingerprint(checkpoint, config) if checkpoint.kind is ModelKind.BASE else "",
        max_streams=count_streams(decoder),
    )


def _fingerprint(checkpoint: Checkpoint, config: TalkerConfig) -> str:
    """Of the speaker encoder and the shapes of prompts: one fits all checkpoints that share it."""
    shapes = (config.stack.hidden_size, config.num_code_groups, config.codebook_size)
    digest = hashlib.sha256(repr(shapes).encode())
    weights = Weights(checkpoint.folder, dtype=torch.float32, device=torch.device("cpu"))
    for name in sorted(name for name in weights if name.startswith("speaker_encoder.")):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest()


def load_listening(
    checkpoint: Checkpoint,
    settings: Settings,
    device: Device,
    report: Report,
    *,
    room_bytes: int | None = None,
) -> ListeningModel:
    """Load an ASR folder of either layout; raises StartError naming what is missing or damaged."""
    folder = checkpoint.folder
    with naming(folder / "config.json"):
        config = AsrConfig.from_json(read_json(folder / "config.json"))
    weights = Weights(
        folder, dtype=device.dtype, device=device.device, report=report, name_of=original_name
    )
    embedding = weights["thinker.model.embed_tokens.weight"]
    stack, head = _build(
        lambda source: _decoder_and_head(config, source, device),
        weights,
        checkpoint,
        settings,
        device,
    )
    check_shapes(stack, folder)
    decoder = _paged_decoder(stack, settings, device, room_bytes, slots=LISTENING_SLOTS)
    tokenizer = TextTokenizer(folder)
    defaults = GenerationDefaults.read(folder)
    make_runner = listening_in_graphs if device.lanes is not None else _listening_runner
    runner = make_runner(
        device,
        AudioEncoder(config.audio, weights),
        embedding,
        head,
        tokenizer=tokenizer,
        eos_ids=defaults.eos_ids or (tokenizer.special("<|im_end|>"),),
        decoder=decoder,
        scheduler=_scheduler(settings, decoder),
    )
    info = ModelInfo(
        kind=ModelKind.ASR,
        name=checkpoint.name,
        languages=config.languages,
        max_prompt_tokens=decoder.pool.max_positions,
        max_streams=count_streams(decoder),
    )
    return ListeningModel(info, runner, tokenizer)


def _listening_runner(
    device: Device, encoder: AudioEncoder, embedding: Tensor, head: Linear, **parts: Any
) -> AsrRunner:
    choose, log_sum = choose_on(device.kernels), log_sum_on(device.kernels)
    return AsrRunner(encoder, embedding, head, choose=choose, log_sum=log_sum, **parts)


def _decoder_and_head(
    config: AsrConfig, weights: Mapping[str, Tensor], device: Device
) -> tuple[Stack, Linear]:
    """The head is tied to the embedding, of which the official files hold a second copy."""
    stack = Stack(config.stack, weights, "thinker.model.", device.activations)
    has_head = not config.is_tied and "thinker.lm_head.weight" in weights
    name = "thinker.lm_head" if has_head else "thinker.model.embed_tokens"
    return stack, _kernel_linear(load_linear(weights, name), device)


def _kernel_linear(linear: Linear, device: Device) -> Linear:
    if device.kernels is None or isinstance(linear, Int8Linear):
        return linear
    return KernelLinear(device.kernels, linear)


def _build(
    make: Callable[[Mapping[str, Tensor]], T],
    weights: Weights,
    checkpoint: Checkpoint,
    settings: Settings,
    device: Device,
) -> T:
    """Make a model of its weights, in int8 through a cache file if that is the precision."""
    if device.numba is not None:
        return make(NumbaWeights(weights, device.numba))
    if not device.is_int8 or device.kernels is None:
        return make(weights)
    files = weight_files(checkpoint.folder)
    path = cache_path(settings.cache_dir, checkpoint.name, files)
    small = Int8Weights(weights, device.kernels, path)
    if small.is_cached:
        return make(small)
    make(small)  # for what it quantises; the model itself is made again of the mapped file
    small.write()
    return make(Int8Weights(weights, device.kernels, path))


def check_shapes(stack: Stack, folder: Path) -> None:
    """StartError if config.json describes other weights than those that are there."""
    c = stack.config
    heads = c.num_heads * c.head_dim
    expected = {
        "qkv": (heads + 2 * c.num_kv_heads * c.head_dim, c.hidden_size),
        "out": (c.hidden_size, heads),
        "gate_up": (2 * c.intermediate_size, c.hidden_size),
        "down": (c.hidden_size, c.intermediate_size),
    }
    for number, layer in enumerate(stack.layers):
        for name, shape in expected.items():
            found = tuple(getattr(layer, name).weight.shape)
            if found != shape:
                raise StartError(
                    f"{folder / 'config.json'} does not fit the weights: {name} of layer {number}"
                    f" would be {list(shape)}, and is {list(found)}"
                )


def _paged_decoder(
    stack: Stack,
    settings: Settings,
    device: Device,
    room_bytes: int | None,
    slot_bytes: int = 0,
    slots: Mapping[str, int] = SLOTS,
) -> PagedDecoder:
    """`room_bytes`: planned for this model's requests; None: a share of what is free now."""
    config = stack.config
    room = plan_room(
        share_of_free_memory(device) if room_bytes is None else room_bytes,
        position_bytes=position_bytes(config, device.dtype),
        slot_bytes=slot_bytes,
        most_slots=settings.max_running or slots[device.device.type],
        max_positions=min(config.max_positions, MAX_POSITIONS),
    )
    num_slots, num_pages = room.num_slots, max(room.num_positions // PAGE_POSITIONS, 1)
    pool = KvPool(
        config,
        num_pages=num_pages,
        num_slots=num_slots if device.lanes is None else num_slots + 1,  # for rows that fill up
        max_positions=min(config.max_positions, MAX_POSITIONS, num_pages * PAGE_POSITIONS),
        dtype=device.dtype,
        device=device.device,
    )
    cpu_stack = None
    if device.kernels is not None:
        cpu_stack = CpuStack(device.kernels, stack, [], num_slots)
    return PagedDecoder(stack, pool, num_slots, cpu_stack)


def _scheduler(settings: Settings, decoder: PagedDecoder) -> Scheduler[Any]:
    return Scheduler(
        num_slots=decoder.num_slots,
        max_prefill_tokens=MAX_PREFILL_TOKENS,
        max_waiting=settings.max_waiting,
        memory=decoder.pool.book,
    )
