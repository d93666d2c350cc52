"""Plain WAV files read without ffmpeg: exact about sizes, also where their writers are not."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qwen3_audio.audio.mono import mix_to_mono
from qwen3_audio.audio.wav import UNKNOWN_LENGTH
from qwen3_audio.types import Pcm

_INTEGER, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # behind the tag in the GUID
_WIDTHS = {_INTEGER: (1, 2, 3, 4), _FLOAT: (4, 8)}
_BLOCK_FRAMES = 65_536


@dataclass(frozen=True, slots=True)
class WavSound:
    """Where the samples of a WAV file lie, and what they are."""

    sample_rate_hz: int
    num_channels: int
    is_float: bool
    width_bytes: int  # of one sample of one channel
    data_offset: int
    num_frames: int
    is_cut_off: bool  # the header promises more

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.sample_rate_hz


def find_wav_sound(file: BinaryIO) -> WavSound | None:
    """None if this is not a WAV file, or one with anything but plain integers or floats inside."""
    file_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    is_complete = int.from_bytes(head[4:8], "little") + 8 == file_bytes
    layout = b""
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        start = file.tell()
        if name == b"data":
            # Streams have a placeholder here: the largest number, or a 0 that was never filled in.
            is_stream = size == UNKNOWN_LENGTH or (size == 0 and not is_complete)
            available = file_bytes - start
            return _build_sound(layout, start, available if is_stream else size, available)
        if name == b"fmt ":
            layout = file.read(min(size, 40))
        file.seek(start + size + size % 2)
    return None


def read_pieces(file: BinaryIO, sound: WavSound) -> Iterator[Pcm]:
    """The samples as mono float32, some seconds at a time."""
    frame_bytes = sound.num_channels * sound.width_bytes
    block_frames = max(_BLOCK_FRAMES // sound.num_channels, 1)
    file.seek(sound.data_offset)
    for start in range(0, sound.num_frames, block_frames):
        num_frames = min(block_frames, sound.num_frames - start)
        data = file.read(num_frames * frame_bytes)
        data = data[: len(data) // frame_bytes * frame_bytes]
        yield mix_to_mono(_parse_samples(data, sound).reshape(-1, sound.num_channels))


def _build_sound(layout: bytes, start: int, data_bytes: int, available: int) -> WavSound | None:
    if len(layout) < 16:
        return None
    tag, num_channels, rate_hz, _, block_bytes, bits = struct.unpack("<HHIIHH", layout[:16])
    if tag == _EXTENSIBLE and layout[26:40] == _SUBFORMAT_TAIL:
        tag = int.from_bytes(layout[24:26], "little")
    if tag not in _WIDTHS or num_channels == 0 or rate_hz == 0:
        return None
    width_bytes = -(-bits // 8)
    # 20 bits may lie in 3 or in 4 bytes: the block says so, unless it is nonsense.
    if block_bytes % num_channels == 0:
        width_bytes = max(width_bytes, block_bytes // num_channels)
    if width_bytes not in _WIDTHS[tag]:
        return None
    return WavSound(
        rate_hz,
        num_channels,
        is_float=tag == _FLOAT,
        width_bytes=width_bytes,
        data_offset=start,
        num_frames=min(data_bytes, available) // (num_channels * width_bytes),
        is_cut_off=data_bytes > available,
    )


def _parse_samples(data: bytes, sound: WavSound) -> NDArray[Any]:
    """Numbers of a type that mix_to_mono knows the full scale of."""
    if sound.is_float:
        return np.frombuffer(data, f"<f{sound.width_bytes}")
    if sound.width_bytes == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4").ravel()
    return np.frombuffer(data, {1: "u1", 2: "<i2", 4: "<i4"}[sound.width_bytes])
