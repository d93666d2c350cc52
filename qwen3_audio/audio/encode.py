"""Sound → bytes of any format in formats.py, as the sound is made; one continuous stream."""

import io
from threading import Lock
from typing import Protocol, Self

import av
import numpy as np

from qwen3_audio.audio.formats import AudioFormat, get_codec_rate_hz, get_format
from qwen3_audio.audio.resample import Resampler
from qwen3_audio.audio.tempo import Tempo
from qwen3_audio.audio.wav import pcm16, wav_header
from qwen3_audio.errors import BadRequest
from qwen3_audio.types import SPEECH_RATE_HZ, Pcm

MIN_SPEED = 0.25
MAX_SPEED = 4.0

_FLAC_FRAME_S = 0.08  # of a stream: the model's own piece; the codec's default waits for 96 ms


class Encoder:
    """One request's sound as bytes of one format: write pieces, finish once, close in any case.

    Pieces are mono float32 at `sample_rate_hz`. With `is_whole` the bytes come at the end, and
    headers know the length. Calls may come from different threads. BadRequest: format, speed, rate.
    """

    def __init__(
        self,
        name: str,
        *,
        speed: float = 1.0,
        sample_rate_hz: int = SPEECH_RATE_HZ,
        output_rate_hz: int | None = None,
        is_whole: bool = False,
    ) -> None:
        row = get_format(name)
        wanted_rate_hz = sample_rate_hz if output_rate_hz is None else output_rate_hz
        rate_hz = get_codec_rate_hz(row, wanted_rate_hz)
        self._stages = _build_stages(speed, sample_rate_hz, rate_hz)
        self._writer = _build_writer(row, rate_hz, is_whole)
        self._lock = Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, samples: Pcm) -> bytes:
        """The bytes that are ready once this piece is known; may be empty."""
        with self._lock:
            self._check_open()
            for stage in self._stages:
                samples = stage.write(samples)
            return self._writer.write(pcm16(samples))

    def finish(self) -> bytes:
        """The last bytes; the encoder is closed afterwards."""
        with self._lock:
            self._check_open()
            rest = np.zeros(0, np.float32)
            for stage in self._stages:
                rest = np.append(stage.write(rest), stage.finish())
            data = self._writer.write(pcm16(rest)) + self._writer.finish()
        self.close()
        return data

    def close(self) -> None:
        """Give back the codec's memory, also where the sound was abandoned; may come twice."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._stages = []
                self._writer.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("the encoder is closed")


def encode_whole(
    name: str,
    samples: Pcm,
    *,
    speed: float = 1.0,
    sample_rate_hz: int = SPEECH_RATE_HZ,
    output_rate_hz: int | None = None,
) -> bytes:
    """A file whose header knows its length, where the format has one; errors as of Encoder."""
    with Encoder(
        name,
        speed=speed,
        sample_rate_hz=sample_rate_hz,
        output_rate_hz=output_rate_hz,
        is_whole=True,
    ) as encoder:
        # A second at a time, so that the stages between need no second copy of the whole.
        starts = range(0, len(samples), sample_rate_hz)
        data = [encoder.write(samples[start : start + sample_rate_hz]) for start in starts]
        return b"".join([*data, encoder.finish()])


class _Stage(Protocol):
    def write(self, samples: Pcm) -> Pcm: ...
    def finish(self) -> Pcm: ...


def _build_stages(speed: float, sample_rate_hz: int, output_rate_hz: int) -> list[_Stage]:
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise BadRequest(f"speed must be {MIN_SPEED} to {MAX_SPEED}.", param="speed")
    stages: list[_Stage] = []
    if speed != 1.0:
        stages.append(Tempo(speed, sample_rate_hz))
    if sample_rate_hz != output_rate_hz:
        stages.append(Resampler(sample_rate_hz, output_rate_hz))
    return stages


class _Writer(Protocol):
    """16-bit mono PCM in, the format's bytes out."""

    def write(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...
    def close(self) -> None: ...


def _build_writer(row: AudioFormat, rate_hz: int, is_whole: bool) -> _Writer:
    if row.codec is not None:
        return _CodecWriter(row, rate_hz, is_whole)
    if row.name == "wav":
        return _WholeWavWriter(rate_hz) if is_whole else _PlainWriter(wav_header(rate_hz))
    return _PlainWriter(b"")


class _PlainWriter:
    """The samples as they are, behind a header."""

    def __init__(self, header: bytes) -> None:
        self._header = header

    def write(self, data: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + data

    def finish(self) -> bytes:
        return b""

    def close(self) -> None: ...


class _WholeWavWriter:
    """Keeps the samples until the header can say how many they are."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._data = bytearray()

    def write(self, data: bytes) -> bytes:
        self._data += data
        return b""

    def finish(self) -> bytes:
        return wav_header(self._rate_hz, len(self._data)) + self._data

    def close(self) -> None:
        self._data.clear()


class _Outbox:
    """The muxer's file, which can't seek: bytes leave as they are written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


class _CodecWriter:
    """A codec and its muxer, in ffmpeg's libraries."""

    def __init__(self, row: AudioFormat, rate_hz: int, is_whole: bool) -> None:
        assert row.codec is not None
        self._rate_hz = rate_hz
        self._num_samples = 0
        self._outbox = _Outbox()
        self._file = io.BytesIO() if is_whole else None
        self._container = av.open(
            self._file or self._outbox, "w", format=row.muxer, options=dict(row.muxer_options)
        )
        stream = self._container.add_stream(row.codec, rate=rate_hz, layout="mono")
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        if row.bit_rate is not None:
            stream.codec_context.bit_rate = row.bit_rate
        if row.codec == "flac" and not is_whole:
            frame_size = round(_FLAC_FRAME_S * rate_hz)
            stream.codec_context.options = {"frame_size": str(frame_size)}
        self._container.start_encoding()

    def write(self, data: bytes) -> bytes:
        if data:
            samples = np.frombuffer(data, np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = self._rate_hz
            frame.pts = self._num_samples
            self._num_samples += len(samples)
            self._container.mux(self._stream.encode(frame))
        return self._outbox.take()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.getvalue() if self._file else self._outbox.take()

    def close(self) -> None:
        self._container.close()
