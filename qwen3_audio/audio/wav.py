"""WAV and PCM bytes: 16-bit, mono, little endian."""

import struct

import numpy as np

from qwen3_audio.types import Pcm

UNKNOWN_LENGTH = 0xFFFF_FFFF  # players read a streamed file until it ends


def wav_header(sample_rate_hz: int, data_bytes: int = UNKNOWN_LENGTH) -> bytes:
    """The 44 bytes before the samples; without a length, those of a stream that just ends."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", min(data_bytes + 36, UNKNOWN_LENGTH), b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate_hz, sample_rate_hz * 2, 2, 16,
        b"data", min(data_bytes, UNKNOWN_LENGTH),
    )  # fmt: skip


def pcm16(samples: Pcm) -> bytes:
    """round(x·32767) as 16-bit numbers; beyond ±1 clipped, NaN silent."""
    scaled = np.nan_to_num(np.clip(samples, -1.0, 1.0)) * np.float32(32767.0)
    data: bytes = np.rint(scaled).astype("<i2").tobytes()
    return data


def wav_bytes(samples: Pcm, sample_rate_hz: int) -> bytes:
    """A whole WAV file with exact sizes."""
    data = pcm16(samples)
    return wav_header(sample_rate_hz, len(data)) + data
