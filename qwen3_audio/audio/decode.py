"""Any upload → mono float32 at a wanted rate: told by content, decoded piece by piece, bounded."""

import io
from typing import BinaryIO

import av
import numpy as np

from qwen3_audio.audio.container import (
    DAMAGED,
    SENDABLE,
    Pieces,
    RefusedError,
    decode_container,
    open_container,
)
from qwen3_audio.audio.resample import Resampler
from qwen3_audio.audio.wav_reader import find_wav_sound, read_pieces
from qwen3_audio.errors import BadRequest
from qwen3_audio.types import Pcm

MIN_SOURCE_RATE_HZ = 1_000
MAX_SOURCE_RATE_HZ = 768_000

_JOINED_SAMPLES = 32_768  # codec frames are short: resampled singly they cost more than decoded
_ROUNDING_S = 1e-6


def decode_audio(
    source: bytes | BinaryIO,
    *,
    sample_rate_hz: int,
    max_seconds: float,
    param: str | None = "file",
) -> Pcm:
    """Mean of the channels, resampled; divided by its peak where that is over 1.

    A valid file without sound gives an empty array; the file stays open. BadRequest with the given
    `param`: no audio (code invalid_audio), or more than `max_seconds` of it (audio_too_long).
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return _limit_peak(_collect(_read_pieces(file, max_seconds), sample_rate_hz))
    except RefusedError as refusal:
        raise BadRequest(str(refusal), param=param, code=refusal.code) from None


def _collect(pieces: Pieces, sample_rate_hz: int) -> Pcm:
    # A bytearray grows in place, where joining a list would need everything twice.
    data = bytearray()
    source_rate_hz, resampler = sample_rate_hz, Resampler(sample_rate_hz, sample_rate_hz)
    for rate_hz, samples in pieces:
        if not MIN_SOURCE_RATE_HZ <= rate_hz <= MAX_SOURCE_RATE_HZ:
            raise RefusedError(f"The audio has a sample rate of {rate_hz} Hz; {SENDABLE}.")
        if rate_hz != source_rate_hz:
            data += resampler.finish().tobytes()
            source_rate_hz, resampler = rate_hz, Resampler(rate_hz, sample_rate_hz)
        data += resampler.write(samples).tobytes()
    data += resampler.finish().tobytes()
    return np.frombuffer(data, np.float32)


def _limit_peak(samples: Pcm) -> Pcm:
    """In place: the largest thing in memory."""
    if len(samples):
        peak = max(samples.max(), -samples.min())
        if peak > 1.0:
            np.divide(samples, peak, out=samples)
            np.clip(samples, -1.0, 1.0, out=samples)
    return samples


def _read_pieces(file: BinaryIO, max_seconds: float) -> Pieces:
    file.seek(0)
    if not file.read(1):
        raise RefusedError(f"The file is empty; {SENDABLE}.")
    sound = find_wav_sound(file)
    if sound is None:
        yield from _read_container(file, max_seconds)
        return
    if sound.is_cut_off and not sound.num_frames:
        raise RefusedError(DAMAGED)
    _check_length(sound.duration_s, max_seconds, sound.duration_s)
    for piece in read_pieces(file, sound):
        yield sound.sample_rate_hz, piece


def _read_container(file: BinaryIO, max_seconds: float) -> Pieces:
    num_seconds = 0.0
    with open_container(file) as container:
        declared_s = (container.duration or 0) / av.time_base
        for rate_hz, piece in _join(decode_container(container)):
            num_seconds += len(piece) / max(rate_hz, 1)
            _check_length(num_seconds, max_seconds, declared_s)
            yield rate_hz, piece
    if not num_seconds and declared_s > 0:
        raise RefusedError(DAMAGED)


def _check_length(num_seconds: float, max_seconds: float, declared_s: float) -> None:
    if num_seconds <= max_seconds + _ROUNDING_S:
        return
    # What a file says of its own length may be a guess, or a lie: it decides nothing.
    length = f"{declared_s:.1f}" if declared_s >= num_seconds else f"over {max_seconds:g}"
    message = f"The audio is {length} seconds long; at most {max_seconds:g} seconds are taken."
    raise RefusedError(message, "audio_too_long")


def _join(pieces: Pieces) -> Pieces:
    """The same sound in fewer, larger pieces."""
    waiting: list[Pcm] = []
    waiting_rate_hz = num_waiting = 0
    for rate_hz, samples in pieces:
        if waiting and (rate_hz != waiting_rate_hz or num_waiting >= _JOINED_SAMPLES):
            yield waiting_rate_hz, np.concatenate(waiting)
            waiting, num_waiting = [], 0
        waiting.append(samples)
        waiting_rate_hz, num_waiting = rate_hz, num_waiting + len(samples)
    if waiting:
        yield waiting_rate_hz, np.concatenate(waiting)
