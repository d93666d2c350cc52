"""Sound in and out of bytes, and what can be said about a voice without understanding it."""

import io
from functools import cache

import av
import numpy as np

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.types import SPEECH_RATE_HZ, Pcm
from training.tts.speaker import pitch_of
from training.world.espeak import Espeak

MP3_BIT_RATE = 64_000
_WINDOW = 1200  # samples at 24 kHz
_LOWEST_HZ, _HIGHEST_HZ = 300, 5000  # the formants' part of the spectrum
_LONGEST_S = 600


@cache
def shared_espeak() -> Espeak:
    """The library has global state: one for the whole process."""
    return Espeak()


def samples_of(wav: bytes) -> Pcm:
    """Mono at 24 kHz; empty for an empty answer."""
    if not wav:
        return np.zeros(0, np.float32)
    return decode_audio(wav, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=_LONGEST_S)


def duration_s(wav: bytes) -> float:
    return len(samples_of(wav)) / SPEECH_RATE_HZ


def to_mp3(wav: bytes) -> bytes:
    """The sound as an MP3 file of 64 kbit/s; the server's own has 96."""
    if not wav:
        return b""
    samples = np.round(samples_of(wav).clip(-1, 1) * 32767).astype(np.int16)
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SPEECH_RATE_HZ, layout="mono")
        stream.bit_rate = MP3_BIT_RATE
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = SPEECH_RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def pitch_hz(samples: Pcm) -> float | None:
    """The median pitch; None where there is too little sound."""
    return None if len(samples) < 4 * _WINDOW else pitch_of(samples)


def brightness_hz(samples: Pcm) -> float | None:
    """The middle of the amplitudes between 300 Hz and 5 kHz, over the louder half of a clip."""
    if len(samples) < 4 * _WINDOW:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[:: _WINDOW // 2]
    energies = np.square(windows).sum(1)
    loud = windows[energies >= np.median(energies)]
    spectrum = np.abs(np.fft.rfft(loud * np.hanning(_WINDOW))).mean(0)
    hz = np.fft.rfftfreq(_WINDOW, 1 / SPEECH_RATE_HZ)
    band = (hz >= _LOWEST_HZ) & (hz <= _HIGHEST_HZ)
    total = spectrum[band].sum()
    return float((spectrum[band] * hz[band]).sum() / total) if total > 0 else None


def median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.median(known)), 1) if known else None
