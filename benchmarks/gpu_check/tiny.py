"""Tiny checkpoints of all kinds: the GPU against the CPU, graphs against none, batch, streaming."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu_check import checkpoints, driving
from benchmarks.gpu_check.attempts import attempt
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
LEAST_EQUAL = 0.99  # of the first codes of a reference's frames
SOUND_TOLERANCE = 2e-4  # of samples from -1 to 1, in float32
Codes = NDArray[np.int64]
REFERENCE_TEXT = "The reference words."


def exact_arithmetic() -> None:
    """float32 means float32: neither products nor convolutions in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def run(part: Part) -> None:
    exact_arithmetic()
    kinds = (ModelKind.CUSTOM_VOICE, ModelKind.VOICE_DESIGN, ModelKind.BASE)
    for kind in kinds[: 1 if part.is_quick else None]:
        with attempt(part, str(kind)):
            _check_voice(part, kind)
    with attempt(part, "asr"):
        _check_ears(part)


def _check_voice(part: Part, kind: ModelKind) -> None:
    checkpoint = checkpoints.make(part, kind.value, "tiny")
    settings = driving.settings_for(part, "float32", 8)
    cpu = driving.load_voice(checkpoint, settings, driving.plain_cpu())
    requests = _requests(kind, cpu)
    expected = _speak_each(cpu, requests)

    def load(device: Device) -> SpeechModel:
        return driving.load_voice(checkpoint, settings, device)

    chosen = driving.choose_device(part, settings)
    model, device = driving.load_somehow(part, load, chosen, f"{kind}: ")
    if kind is ModelKind.BASE:
        with attempt(part, "base: references"):
            _compare_references(part, model, cpu)
    alone = _speak_each(model, requests)
    _compare(part, f"{kind}: GPU against CPU", alone, expected)
    with attempt(part, f"{kind}: batch against alone"):
        _compare(part, f"{kind}: batch against alone", _speak_together(model, requests), alone)
    with attempt(part, f"{kind}: streamed against whole"):
        _check_streaming(part, kind, model, alone[0], device)
    if device.lanes is None:
        part.note(f"{kind}: no graphs are used on this device")
        return
    driving.check_graphs(part, device, f"{kind}: ")
    with attempt(part, f"{kind}: graphs against plain"):
        plain = _speak_each(load(replace(device, lanes=None)), requests)
        _compare(part, f"{kind}: graphs against plain", alone, plain)


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
    is_same = ours.codes == theirs.codes  # a near tie turns the books behind it, too
    first, share = float(is_same[:, 0].mean()), float(is_same.mean())
    detail = f"{first:.2%} of the first book equal, {share:.2%} of all"
    part.check("base: codes of a reference", first >= LEAST_EQUAL, detail)
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
    pairs = list(zip(ours, theirs, strict=True))
    check_equal(part, f"{name}, codes", [(a.codes, b.codes) for a, b in pairs])
    equal = [(a, b) for a, b in pairs if np.array_equal(a.codes, b.codes)]
    if equal:
        apart = max(float(np.abs(a.sound - b.sound).max()) for a, b in equal)
        part.check(f"{name}, sound", apart <= SOUND_TOLERANCE, f"at most {apart:.1e} apart")


def check_equal(part: Part, name: str, pairs: Sequence[tuple[Codes | None, Codes | None]]) -> None:
    """Steps [T] or [T, Q] of each request, None where there is no end.

    Sums in another order let a near tie fall the other way once in a long while, and the rest of
    that request with it: one request may differ, but not from its first step on.
    """
    places = [find_difference(*pair) for pair in pairs]
    different = {number: place for number, place in enumerate(places) if place is not None}
    detail = f"{len(places) - len(different)} of {len(places)} equal"
    for number, place in different.items():
        detail += f"; request {number} equal for {place[0]} steps, first other {place}"
    is_tie = len(different) == 1 and all(place[0] > 0 for place in different.values())
    part.check(name, not different or is_tie, detail)


def find_difference(ours: Codes | None, theirs: Codes | None) -> tuple[int, ...] | None:
    """Step, and group where there are some, of the first that is not the same; None: all are."""
    if ours is None or theirs is None:
        return (0,)
    num_steps = min(len(ours), len(theirs))
    found = np.argwhere(ours[:num_steps] != theirs[:num_steps])
    if len(found):
        return tuple(map(int, found[0]))
    return None if len(ours) == len(theirs) else (num_steps,)


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

    def load(device: Device) -> ListeningModel:
        return driving.load_ears(checkpoint, settings, device)

    chosen = driving.choose_device(part, settings)
    model, device = driving.load_somehow(part, load, chosen, "asr: ")
    alone = _listen(model, is_together=False)
    _compare_tokens(part, "asr: GPU against CPU", alone, expected)
    with attempt(part, "asr: batch against alone"):
        _compare_tokens(part, "asr: batch against alone", _listen(model, is_together=True), alone)
    if device.lanes is not None:
        driving.check_graphs(part, device, "asr: ")
        with attempt(part, "asr: graphs against plain"):
            plain = _listen(load(replace(device, lanes=None)), is_together=False)
            _compare_tokens(part, "asr: graphs against plain", alone, plain)


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
    pairs = [(_tokens(a), _tokens(b)) for a, b in zip(ours, theirs, strict=True)]
    check_equal(part, f"{name}, tokens", pairs)


def _tokens(work: Heard) -> Codes | None:
    return None if work.end is None else np.array(work.end.token_ids, np.int64)
