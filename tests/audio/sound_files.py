"""Sound files made on the spot, with PyAV or byte by byte, and what it takes to look into them."""

import io
import struct

import av
import numpy as np
from numpy.typing import NDArray

from qwen3_audio.types import Pcm

LAYOUTS = ("mono", "stereo", "5.1", "7.1")


def tone(num_samples: int, *, rate_hz: int = 24_000, pitch_hz: float = 220.0) -> Pcm:
    seconds = np.arange(num_samples) / rate_hz
    return (0.3 * np.sin(2 * np.pi * pitch_hz * seconds)).astype(np.float32)


def file_with(
    container: str,
    codec: str,
    samples: Pcm,
    *,
    rate_hz: int = 24_000,
    layout: str = "mono",
    video: str | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A file as ffmpeg writes it; every channel holds the same sound, the video is grey."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        picture = None
        if video is not None:
            picture = file.add_stream(video, rate=25, width=64, height=64, pix_fmt="yuv420p")
        stream = file.add_stream(codec, rate=rate_hz, layout=layout, options=options or {})
        file.start_encoding()
        if picture is not None:
            for index in range(len(samples) * 25 // rate_hz):
                grey = av.VideoFrame.from_ndarray(np.full((96, 64), 128, np.uint8), "yuv420p")
                grey.pts = index
                file.mux(picture.encode(grey))
        for start in range(0, len(samples), 1000):
            piece = np.repeat(samples[start : start + 1000], av.AudioLayout(layout).nb_channels)
            frame = av.AudioFrame.from_ndarray(piece[None], format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, start
            file.mux(stream.encode(frame))
        if picture is not None:
            file.mux(picture.encode(None))
        file.mux(stream.encode(None))
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def wav_file(
    data: bytes,
    *,
    tag: int = 1,
    bits: int = 16,
    num_channels: int = 1,
    rate_hz: int = 16_000,
    data_size: int | None = None,
    riff_size: int | None = None,
    is_extensible: bool = False,
    extra: bytes = b"",
    trailer: bytes = b"",
) -> bytes:
    """A WAV file of any kind; sizes in its headers may be lies."""
    block = num_channels * -(-bits // 8)
    tag_written = 0xFFFE if is_extensible else tag
    fmt = struct.pack("<HHIIHH", tag_written, num_channels, rate_hz, 0, block, bits)
    if is_extensible:
        guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
        fmt += struct.pack("<HHI", 22, bits, 0) + guid
    size = len(data) if data_size is None else data_size
    body = b"WAVE" + chunk(b"fmt ", fmt) + extra + b"data" + struct.pack("<I", size) + data
    body += trailer
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def int16(samples: Pcm) -> NDArray[np.int16]:
    return np.rint(samples * 32767).astype("<i2")


def strength(samples: Pcm, *, pitch_hz: float, rate_hz: int) -> float:
    """How much of the sound is this pitch: its amplitude, as if it lasted all the time."""
    turns = np.exp(-2j * np.pi * pitch_hz * np.arange(len(samples)) / rate_hz)
    return float(2 * abs(np.mean(samples * turns)))
