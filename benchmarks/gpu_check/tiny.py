"""Tiny checkpoints of all kinds: the GPU against the CPU, graphs against none, batch, streaming."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.gpu_check import checkpoints, driving
from benchmarks.gpu_check.driving import Heard, Spoken, Turns
from benchmarks.gpu_check.part import Part
from qwen3_audio.bench.work import make_sound
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.loading import ListeningModel, SpeechModel
from qwen3_audio.engine.local import hear_reference
from qwen3_audio.types import LISTEN_RATE_HZ, SPEECH_RATE_HZ, ModelKind, SpeechRequest, VoicePrompt

TEXTS = ("The other in the end.", "One two three four five six.", "A", "Language and text, again.")
NUM_FRAMES = (24, 37, 9, 30, 24, 18, 5, 33)
NUM_TOKENS = (12, 5, 20, 9)
CLIPS_S = (2.0, 4.7, 1.1, 6.3)
SOUND_TOLERANCE = 2e-4  # of samples from -1 to 1, in float32
REFERENCE_TEXT = "The reference words."


def exact_arithmetic() -> None:
    """float32 means float32: neither products nor convolutions in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def run(part: Part) -> None:
    exact_arithmetic()
    kinds = (ModelKind.CUSTOM_VOICE, ModelKind.VOICE_DESIGN, ModelKind.BASE)
    for kind in kinds[: 1 if part.is_quick else None]:
        _check_voice(part, kind)
    _check_ears(part)


def _check_voice(part: Part, kind: ModelKind) -> None:
    checkpoint = checkpoints.make(part, kind.value, "tiny")
    settings = driving.settings_for(part, "float32", 8)
    cpu = driving.load_voice(checkpoint, settings, driving.plain_cpu())
    requests = _requests(kind, cpu)
    expected = _speak_each(cpu, requests)
    device = driving.choose_device(part, settings)
    model = driving.load_voice(checkpoint, settings, device)
    if kind is ModelKind.BASE:
        _compare_references(part, model, cpu)
    alone = _speak_each(model, requests)
    _compare(part, f"{kind}: GPU against CPU", alone, expected)
    together = _speak_together(model, requests)
    _compare(part, f"{kind}: batch against alone", together, alone)
    if device.lanes is None:
        part.note(f"{kind}: no graphs are used on this device")
    else:
        plain = driving.load_voice(checkpoint, settings, replace(device, lanes=None))
        _compare(part, f"{kind}: graphs against plain", alone, _speak_each(plain, requests))
    _check_streaming(part, kind, model, alone[0], device)


def _requests(kind: ModelKind, model: SpeechModel) -> list[SpeechRequest]:
    """Different texts, seeds and lengths."""
    extra: dict[str, object] = {}
    if kind is ModelKind.CUSTOM_VOICE:
        extra["speaker"] = model.info.speakers[0]
    elif kind is ModelKind.VOICE_DESIGN:
        extra["instructions"] = "An old man."
    requests, references = [], {}
    if kind is ModelKind.BASE:
        references = {has_text: _reference(model, with_text=has_text) for has_text in (True, False)}
    for seed, num_frames in enumerate(NUM_FRAMES):
        if kind is ModelKind.BASE:
            extra["voice_prompt"] = references[bool(seed % 2)]
        text = TEXTS[seed % len(TEXTS)]
        requests.append(
            SpeechRequest(kind, text, seed, language="English", max_frames=num_frames, **extra)  # type: ignore[arg-type]
        )
    return requests


def _reference(model: SpeechModel, *, with_text: bool) -> VoicePrompt:
    sound = make_sound(1.5, SPEECH_RATE_HZ)
    return hear_reference(model, sound, REFERENCE_TEXT if with_text else None)


def _compare_references(part: Part, model: SpeechModel, cpu: SpeechModel) -> None:
    """What a recording becomes, on both."""
    ours, theirs = (_reference(one, with_text=True) for one in (model, cpu))
    assert ours.codes is not None and theirs.codes is not None
    same = float((ours.codes == theirs.codes).mean())
    part.check("base: codes of a reference", same == 1.0, f"{same:.2%} equal")
    apart = float(np.abs(ours.speaker_vector - theirs.speaker_vector).max())
    part.check("base: speaker vector", apart <= 1e-3, f"at most {apart:.1e} apart")


def _speak_each(model: SpeechModel, requests: Sequence[SpeechRequest]) -> list[Spoken]:
    works, turns = [driving.speech(model, request) for request in requests], Turns(model.runner)
    for work in works:
        turns.run([work])
    return works


def _speak_together(model: SpeechModel, requests: Sequence[SpeechRequest]) -> list[Spoken]:
    """Half of them begin at once, each of the others when one has ended."""
    works = [driving.speech(model, request) for request in requests]
    waiting = iter(works[len(works) // 2 :])
    Turns(model.runner).run(works[: len(works) // 2], lambda: next(waiting, None))
    return works


def _compare(part: Part, name: str, ours: Sequence[Spoken], theirs: Sequence[Spoken]) -> None:
    same = [np.array_equal(a.codes, b.codes) for a, b in zip(ours, theirs, strict=True)]
    part.check(f"{name}, codes", all(same), f"{sum(same)} of {len(same)} equal")
    if all(same):
        apart = max(
            float(np.abs(a.sound - b.sound).max()) for a, b in zip(ours, theirs, strict=True)
        )
        part.check(f"{name}, sound", apart <= SOUND_TOLERANCE, f"at most {apart:.1e} apart")


@torch.inference_mode()
def _check_streaming(
    part: Part, kind: ModelKind, model: SpeechModel, spoken: Spoken, device: Device
) -> None:
    """The pieces that left, against the same codes decoded at once."""
    codec = model.runner.sound.codec
    state, slots = codec.new_state(1), torch.tensor([0], device=device.device)
    prompt = spoken.seq.prompt
    if prompt.reference is not None:
        before = torch.from_numpy(prompt.reference.astype(np.int64)).to(device.device)
        codec.warm(before[None], state, slots)
    codes = torch.from_numpy(spoken.codes).to(device.device)
    whole = codec.decode(codes[None], state, slots)[0].float().cpu().numpy()
    apart = float(np.abs(whole - spoken.sound).max())
    num_pieces = len(spoken.pieces)
    detail = f"{num_pieces} pieces, at most {apart:.1e} apart"
    part.check(f"{kind}: streamed against whole", apart <= SOUND_TOLERANCE, detail)


def _check_ears(part: Part) -> None:
    checkpoint = checkpoints.make(part, "asr", "tiny")
    settings = driving.settings_for(part, "float32", 8)
    cpu = driving.load_ears(checkpoint, settings, driving.plain_cpu())
    expected = _listen(cpu, is_together=False)
    device = driving.choose_device(part, settings)
    model = driving.load_ears(checkpoint, settings, device)
    alone = _listen(model, is_together=False)
    _compare_tokens(part, "asr: GPU against CPU", alone, expected)
    _compare_tokens(part, "asr: batch against alone", _listen(model, is_together=True), alone)
    if device.lanes is not None:
        plain = driving.load_ears(checkpoint, settings, replace(device, lanes=None))
        others = _listen(plain, is_together=False)
        _compare_tokens(part, "asr: graphs against plain", alone, others)


def _listen(model: ListeningModel, *, is_together: bool) -> list[Heard]:
    sounds = [make_sound(clip_s, LISTEN_RATE_HZ) for clip_s in CLIPS_S]
    works = [
        driving.recording(model, sound, seed, num_tokens)
        for seed, (sound, num_tokens) in enumerate(zip(sounds, NUM_TOKENS, strict=True))
    ]
    turns = Turns(model.runner)
    for group in [works] if is_together else [[work] for work in works]:
        turns.run(group)
    return works


def _compare_tokens(part: Part, name: str, ours: Sequence[Heard], theirs: Sequence[Heard]) -> None:
    ends = [(a.end, b.end) for a, b in zip(ours, theirs, strict=True)]
    same = [a is not None and b is not None and a.token_ids == b.token_ids for a, b in ends]
    part.check(f"{name}, tokens", all(same), f"{sum(same)} of {len(same)} equal")
