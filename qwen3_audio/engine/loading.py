"""Checkpoint folders → models and runners on a device, with memory planned once, at start."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.asr import AsrRunner, ListeningRunner
from qwen3_audio.engine.codecs import SharedCodecs, codec_weights
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu.loading import listening_in_graphs, speech_in_graphs
from qwen3_audio.engine.memory import LISTENING_SLOTS, MAX_POSITIONS
from qwen3_audio.engine.paged_decoder import PagedDecoder, count_streams
from qwen3_audio.engine.prompts import PromptBuilder
from qwen3_audio.engine.sampling import choose_on, log_sum_on
from qwen3_audio.engine.speech_sound import SoundMaker
from qwen3_audio.engine.stacks import (
    build_model,
    check_shapes,
    kernel_linear,
    make_decoder,
    make_scheduler,
)
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.engine.tts import SpeechRunner, TtsRunner
from qwen3_audio.engine.weights import (
    GenerationDefaults,
    Report,
    Weights,
    naming,
    read_json,
)
from qwen3_audio.kernels.cpu_predictor import CpuCodePredictor
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
    device.enter()
    folder = checkpoint.folder
    with naming(folder / "config.json"):
        config = TalkerConfig.from_json(read_json(folder / "config.json"))
    codec = (codecs or SharedCodecs(device)).load(folder, report)
    weights = Weights(folder, dtype=device.dtype, device=device.device, report=report)
    talker = build_model(
        lambda source: Talker(config, source, device.activations),
        weights,
        checkpoint,
        settings,
        device,
    )
    check_shapes(talker.stack, folder)
    check_shapes(talker.predictor.stack, folder)
    slot_bytes = sum(tensor.nbytes for tensor in codec.decoder.new_state(1).tensors())
    decoder = make_decoder(talker.stack, settings, device, room_bytes, slot_bytes)
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
        scheduler=make_scheduler(settings, decoder),
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
        talker.head = kernel_linear(talker.head, device)
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
        scope=checkpoint.scope,
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
    device.enter()
    folder = checkpoint.folder
    with naming(folder / "config.json"):
        config = AsrConfig.from_json(read_json(folder / "config.json"))
    weights = Weights(
        folder, dtype=device.dtype, device=device.device, report=report, name_of=original_name
    )
    embedding = weights["thinker.model.embed_tokens.weight"]
    stack, head = build_model(
        lambda source: _decoder_and_head(config, source, device),
        weights,
        checkpoint,
        settings,
        device,
    )
    check_shapes(stack, folder)
    decoder = make_decoder(stack, settings, device, room_bytes, slots=LISTENING_SLOTS)
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
        scheduler=make_scheduler(settings, decoder),
    )
    info = ModelInfo(
        kind=ModelKind.ASR,
        name=checkpoint.name,
        languages=config.languages,
        max_prompt_tokens=decoder.pool.max_positions,
        max_streams=count_streams(decoder),
        scope=checkpoint.scope,
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
    return stack, kernel_linear(load_linear(weights, name), device)
