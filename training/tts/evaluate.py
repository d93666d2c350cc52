"""Figures of finished folders, over the product's own engine: words, ends, lengths, voices.

Everything is spoken greedily and with the checkpoint's own sampling. A judge is any Qwen3-ASR
checkpoint; without one only ends and lengths are measured.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soxr

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.local import LocalBackend, build_backend
from qwen3_audio.settings import Settings
from qwen3_audio.types import (
    ModelKind,
    Pcm,
    Sampling,
    SpeechEnd,
    SpeechRequest,
    Transcript,
    TranscriptionRequest,
    VoicePrompt,
)
from training.asr.wordcount import word_error_rate
from training.run import say, write_text
from training.tts.assemble import FOLDERS
from training.tts.descriptions import interpret
from training.tts.lexicon import Lexicon
from training.tts.reader import Reader
from training.tts.speaker import pitch_of
from training.tts.voices import VOICES
from training.world import grammar
from training.world.words import normalise

Json = dict[str, Any]

SPEECH_RATE_HZ, LISTEN_RATE_HZ = 24_000, 16_000
_GREEDY = Sampling(temperature=0.0)
_WAYS = {"greedy": _GREEDY, "sampled": Sampling()}
_MAX_WORDS = 12
_AT_ONCE = 6
_MAX_FRAMES = 260
_DESCRIPTIONS = (
    "A deep male voice.",
    "A high female voice.",
    "Speak in a young bright girl voice.",
    "A low warm female voice",
    "A calm man, speaking slowly.",
    "A cheerful woman who speaks quickly",
)


class Spoken:
    """One text and what became of it."""

    def __init__(self, text: str, samples: Pcm, end: SpeechEnd, num_expected: int) -> None:
        self.text, self.samples, self.end, self.num_expected = text, samples, end, num_expected

    @property
    def length_ratio(self) -> float:
        return self.end.num_frames / self.num_expected


def draw_sentences(number: int, seed: int = 1, words: frozenset[str] | None = None) -> list[str]:
    """Sentences that training never saw; with `words` only of these, which a judge knows."""
    rng = Random(seed)
    sentences: list[str] = []
    while len(sentences) < number:
        text = grammar.sentence(rng, held_out=True)
        is_known = words is None or words >= {*normalise(text).split()}
        if is_known and len(text.split()) <= _MAX_WORDS:
            sentences.append(text)
    return sentences


class Stage:
    """The backend with what is measured on it."""

    def __init__(self, backend: LocalBackend, reader: Reader) -> None:
        self.backend, self.reader = backend, reader
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def speak(self, request: SpeechRequest, num_expected: int | None = None) -> Spoken:
        pieces: list[Pcm] = []
        async with self._places:
            async for item in self.backend.speak(request):
                if isinstance(item, SpeechEnd):
                    expected = num_expected or len(self.reader.codes(request.text))
                    samples = np.concatenate(pieces) if pieces else np.zeros(1, np.float32)
                    return Spoken(request.text, samples, item, expected)
                pieces.append(item)
        raise RuntimeError("speech without an end")

    async def hear(self, samples: Pcm) -> str:
        listened = soxr.resample(samples, SPEECH_RATE_HZ, LISTEN_RATE_HZ).astype(np.float32)
        async with self._places:
            async for item in self.backend.transcribe(TranscriptionRequest(listened)):
                if isinstance(item, Transcript):
                    return item.text
        raise RuntimeError("a transcription without an end")

    async def measure(self, requests: Sequence[SpeechRequest]) -> tuple[Json, list[Spoken]]:
        """Ends, lengths and pitch of some requests."""
        spoken = await asyncio.gather(*(self.speak(request) for request in requests))
        ratios = [one.length_ratio for one in spoken]
        return {
            "texts": len(spoken),
            "ended": float(np.mean([one.end.reason == "stop" for one in spoken])),
            "length": round(float(np.mean(ratios)), 3),
            "length_off": round(float(np.mean(np.abs(np.array(ratios) - 1) > 0.05)), 3),
            "pitch_hz": round(float(np.median([pitch_of(one.samples) for one in spoken])), 1),
        }, list(spoken)

    async def judge(self, spoken: Sequence[Spoken]) -> tuple[float, list[list[str]]]:
        """WER by the judge that is loaded, and what was heard otherwise than said."""
        heard = await asyncio.gather(*(self.hear(one.samples) for one in spoken))
        texts = [one.text for one in spoken]
        wrong = [
            [text, other]
            for text, other in zip(texts, heard, strict=True)
            if normalise(text) != normalise(other)
        ]
        return round(word_error_rate(texts, heard), 4), wrong


def evaluate(out: Path, work: Path, *, judges: Sequence[Path], texts: Sequence[str]) -> Json:
    """Measure, print, and write `evaluation.json` beside the folders."""
    reader = Reader(Lexicon.load(work / "lexicon"))
    result: Json = {}
    listeners: list[Path | None] = [*judges] or [None]
    for judge in listeners:
        name = "nobody" if judge is None else str(judge)
        say(f"judged by {name}")
        result[name] = asyncio.run(_evaluate(out, reader, judge, texts))
    write_text(out / "evaluation.json", json.dumps(result, indent=1))
    return result


async def _evaluate(out: Path, reader: Reader, judge: Path | None, texts: Sequence[str]) -> Json:
    folders = [out / name for name in FOLDERS.values()] + ([judge] if judge else [])
    checkpoints = [open_checkpoint(folder) for folder in folders]
    settings = Settings.from_env({"QWEN_TTS_DTYPE": "float32"})
    backend = build_backend(checkpoints, settings, lambda *_: None)
    stage = Stage(backend, reader)
    try:
        result = {"speakers": await _speakers(stage, texts, is_judged=judge is not None)}
        result["cloned"] = await _cloned(stage, texts, is_judged=judge is not None)
        result["described"] = await _described(stage, texts)
        return result
    finally:
        await backend.close()


async def _speakers(stage: Stage, texts: Sequence[str], *, is_judged: bool) -> Json:
    rows: Json = {}
    for voice in VOICES:
        for way, sampling in _WAYS.items():
            requests = [
                SpeechRequest(
                    ModelKind.CUSTOM_VOICE, text, seed=number, language="English",
                    speaker=voice.name, sampling=sampling, max_frames=_MAX_FRAMES,
                )
                for number, text in enumerate(texts)
            ]  # fmt: skip
            rows[f"{voice.name} {way}"] = row = await _measure(stage, requests, is_judged=is_judged)
            say(f"{voice.name} {way}: {_short(row)}")
    return rows


async def _cloned(stage: Stage, texts: Sequence[str], *, is_judged: bool) -> Json:
    """References in every voice, with and without their text."""
    rows: Json = {}
    for number, voice in enumerate(VOICES):
        text = texts[number % len(texts)]
        names = stage.reader.units(text)
        samples = stage.reader.lexicon.say(names, voice)
        for with_text in (False, True):
            prompt: VoicePrompt = await stage.backend.make_voice_prompt(
                samples, text if with_text else None
            )
            requests = [
                SpeechRequest(
                    ModelKind.BASE, other, seed=0, language="English", voice_prompt=prompt,
                    sampling=_GREEDY, max_frames=_MAX_FRAMES,
                )
                for other in texts[: max(4, len(texts) // 4)]
            ]  # fmt: skip
            key = f"like {voice.name} {'in context' if with_text else 'by vector'}"
            rows[key] = row = await _measure(stage, requests, is_judged=is_judged)
            row["wanted_hz"] = voice.pitch_hz
            say(f"{key}: {_short(row)}")
    return rows


async def _described(stage: Stage, texts: Sequence[str]) -> Json:
    rows: Json = {}
    for description in _DESCRIPTIONS:
        requests = [
            SpeechRequest(
                ModelKind.VOICE_DESIGN, text, seed=0, language="English",
                instructions=description, sampling=_GREEDY, max_frames=_MAX_FRAMES,
            )
            for text in texts[:4]
        ]  # fmt: skip
        rows[description] = row = await _measure(stage, requests, is_judged=False)
        row["wanted_hz"] = interpret(description).voice.pitch_hz
        say(f"{description}: {_short(row)}")
    return rows


async def _measure(stage: Stage, requests: Sequence[SpeechRequest], *, is_judged: bool) -> Json:
    row, spoken = await stage.measure(requests)
    if is_judged:
        row["wer"], row["misheard"] = await stage.judge(spoken)
    return row


def _short(row: Json) -> str:
    return "  ".join(f"{key} {value}" for key, value in row.items() if key != "misheard")
