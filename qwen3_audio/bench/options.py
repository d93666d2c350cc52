"""What the command line asks for, read before anything runs: one sentence for each mistake."""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_audio.bench.plots import PACKAGES as PLOT_PACKAGES
from qwen3_audio.bench.plots import check_plot
from qwen3_audio.bench.points import Amount, Load
from qwen3_audio.bench.word_errors import PACKAGES as WORD_PACKAGES
from qwen3_audio.bench.word_errors import check_packages
from qwen3_audio.bench.work import CLIP_S, NUM_FRAMES, TEXT, count_tokens
from qwen3_audio.errors import StartError
from qwen3_audio.machine import allowed_cores

MAX_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything but where the server comes from."""

    kind: str  # speech or transcription
    loads: tuple[Load, ...]
    amount: Amount
    model: str | None
    voice: str
    response_format: str  # of speech
    texts: tuple[str, ...]
    num_frames: int | None  # forced
    clip_s: float
    manifest: Path | None
    is_random: bool  # weights mean nothing: words are not judged
    is_endless: bool  # and never end by themselves: lengths are forced
    num_threads: int | None
    fields: dict[str, Any]
    plot: Path | None

    @property
    def num_tokens(self) -> int | None:
        """Forced, of each piece of a recording of ours."""
        is_forced = self.is_endless and self.manifest is None
        return count_tokens(self.clip_s) if is_forced else None


def read_options(given: argparse.Namespace) -> Options:
    """StartError for whatever does not fit."""
    is_random = given.random is not None
    language = {} if given.language is None else {"language": given.language}
    num_frames = _whole("--frames", given.frames, 1, 100_000)
    if given.plot is not None:
        check_plot(given.plot)
        check_packages(PLOT_PACKAGES, "--plot")
    if given.manifest is not None:
        if given.work != "transcription":
            raise StartError("--manifest goes with --work transcription")
        if given.engine:
            raise StartError("--manifest goes over HTTP; leave --engine out")
        if not is_random:
            check_packages(WORD_PACKAGES, "A word error rate")
    return Options(
        kind=given.work,
        loads=_read_loads(given),
        amount=Amount(
            num_requests=_whole("--requests", given.requests, 1, 1_000_000),
            duration_s=_number("--duration", given.duration, 86_400),
            num_warm_up=_whole("--warm-up", given.warm_up, 0, 1000) or 0,
            seed=_whole("--seed", given.seed, 0, 2**31) or 0,
        ),
        model=given.model,
        voice=given.voice,
        response_format=given.response_format,
        texts=_read_texts(given.texts),
        num_frames=num_frames or (NUM_FRAMES if given.random is not None else None),
        clip_s=_number("--clip-seconds", given.clip_seconds, 14_400) or CLIP_S,
        manifest=given.manifest,
        is_random=is_random,
        is_endless=given.random is not None,
        num_threads=_read_threads(given.threads),
        fields={**language, **dict(map(_read_field, given.field))},
        plot=given.plot,
    )


def _read_loads(given: argparse.Namespace) -> tuple[Load, ...]:
    closed = [
        Load("closed", _whole("--concurrency", word, 1, MAX_AT_ONCE) or 1)
        for word in _words("--concurrency", given.concurrency)
    ]
    open_ = [
        Load("open", _number("--rate", word, 10_000) or 1.0)
        for word in _words("--rate", given.rate)
    ]
    return (*closed, *open_) or (Load("closed", 1),)


def _words(name: str, text: str | None) -> list[str]:
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if text is not None and not all(words):
        raise StartError(f"{name} {text} must be numbers with commas between them")
    return words


def _whole(name: str, text: str | None, low: int, high: int) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not low <= int(text) <= high:
        raise StartError(f"{name} {text} must be a whole number from {low} to {high:,}")
    return int(text)


def _number(name: str, text: str | None, high: float) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= high:
        raise StartError(f"{name} {text} must be a number above 0, at most {high:,}")
    return number


def _read_threads(text: str | None) -> int | None:
    """More than there are cores would make them wait for each other."""
    return _whole("--threads", text, 1, max(1, math.ceil(allowed_cores())))


def _read_texts(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return (TEXT,)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise StartError(f"Can't read {path}: it must be a text file, one text a line") from None
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise StartError(f"{path} has no text in it: one text a line")
    return texts


def _read_field(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise StartError(f"--field {text} must be NAME=VALUE, such as stream=false")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
