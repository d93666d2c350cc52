import io
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
import pytest
import soxr
from av.container import InputContainer
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import LAYOUTS, chunk, file_with, int16, strength, tone, wav_file

from qwen3_audio.audio.container import decode_container, open_container
from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.encode import encode_whole
from qwen3_audio.errors import BadRequest
from qwen3_audio.types import Pcm

ONE_SECOND = 24_000

# container, codec, what is special, seconds that the codec may add
FILES = {
    "wav": ("wav", "pcm_s16le", {}, 0.0),
    "wav 8 bit": ("wav", "pcm_u8", {}, 0.0),
    "wav 24 bit": ("wav", "pcm_s24le", {}, 0.0),
    "wav 32 bit": ("wav", "pcm_s32le", {}, 0.0),
    "wav float": ("wav", "pcm_f32le", {}, 0.0),
    "wav double": ("wav", "pcm_f64le", {}, 0.0),
    "wav mu-law": ("wav", "pcm_mulaw", {"rate_hz": 8_000}, 0.0),
    "wav a-law": ("wav", "pcm_alaw", {"rate_hz": 8_000}, 0.0),
    "wav adpcm": ("wav", "adpcm_ms", {}, 0.03),
    "wav 7.1": ("wav", "pcm_s16le", {"layout": "7.1"}, 0.0),
    "wav 192 kHz": ("wav", "pcm_s24le", {"rate_hz": 192_000, "layout": "stereo"}, 0.0),
    "w64": ("w64", "pcm_s16le", {}, 0.0),
    "mp3": ("mp3", "libmp3lame", {}, 0.0),
    "mp3 stereo 44.1 kHz": ("mp3", "libmp3lame", {"rate_hz": 44_100, "layout": "stereo"}, 0.0),
    "mpga": ("mp2", "mp2", {}, 0.1),
    "mpeg program stream": ("mpeg", "mp2", {"video": "mpeg1video"}, 0.1),
    "mpeg program stream without video": ("mpeg", "mp2", {}, 0.1),
    "mpeg transport stream": ("mpegts", "aac", {"video": "mpeg1video"}, 0.1),
    "mp4 with video": ("mp4", "aac", {"video": "mpeg4"}, 0.1),
    "m4a": ("ipod", "aac", {"rate_hz": 44_100, "layout": "stereo"}, 0.1),
    "m4a lossless": ("ipod", "alac", {}, 0.0),
    "mov": ("mov", "pcm_s16le", {"video": "mpeg4"}, 0.0),
    "webm": ("webm", "libopus", {"rate_hz": 48_000}, 0.0),
    "webm with video": ("webm", "libopus", {"rate_hz": 48_000, "video": "libvpx"}, 0.0),
    "mkv": ("matroska", "flac", {"video": "mpeg4"}, 0.0),
    "opus": ("ogg", "libopus", {"rate_hz": 16_000}, 0.0),
    "ogg vorbis": ("ogg", "vorbis", {"layout": "stereo", "options": {"strict": "-2"}}, 0.0),
    "ogg flac": ("ogg", "flac", {}, 0.0),
    "flac": ("flac", "flac", {"rate_hz": 96_000, "layout": "5.1"}, 0.0),
    "aac": ("adts", "aac", {}, 0.1),
    "aiff": ("aiff", "pcm_s16be", {"rate_hz": 44_100}, 0.0),
    "aac 7.1": ("adts", "aac", {"rate_hz": 48_000, "layout": "7.1"}, 0.1),
    "opus 7.1": ("ogg", "libopus", {"rate_hz": 48_000, "layout": "7.1"}, 0.0),
    "caf": ("caf", "pcm_s16le", {}, 0.0),
}


def decode(data: bytes, *, rate_hz: int = 16_000, max_seconds: float = 60.0) -> Pcm:
    return decode_audio(data, sample_rate_hz=rate_hz, max_seconds=max_seconds)


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_comes_out_as_its_tone(kind: str) -> None:
    container, codec, special, added_s = FILES[kind]
    rate_hz = special.get("rate_hz", 24_000)
    data = file_with(container, codec, tone(rate_hz, rate_hz=rate_hz), **special)
    for wanted_hz in (16_000, 24_000):
        samples = decode(data, rate_hz=wanted_hz)
        assert samples.dtype == np.float32 and samples.flags.c_contiguous
        assert 0 <= len(samples) - wanted_hz <= added_s * wanted_hz
        middle = samples[wanted_hz // 4 : wanted_hz // 4 * 3]
        assert strength(middle, pitch_hz=220, rate_hz=wanted_hz) == pytest.approx(0.3, rel=0.06)


def test_amr_comes_out_with_its_length() -> None:
    silent_frame = b"\x3c" + bytes.fromhex("08558196 89a06c22 0a4ac000 00000000" * 2)[:31]
    samples = decode(b"#!AMR\n" + silent_frame * 50)
    assert len(samples) == 16_000


def test_the_first_of_several_sound_tracks_is_taken() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        tracks = [file.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for track, pitch_hz in zip(tracks, (440, 1_000), strict=True):
            sound = int16(tone(16_000, rate_hz=16_000, pitch_hz=pitch_hz))
            frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            file.mux(track.encode(frame))
    samples = decode(out.getvalue())
    assert strength(samples, pitch_hz=440, rate_hz=16_000) == pytest.approx(0.3, abs=0.01)
    assert strength(samples, pitch_hz=1_000, rate_hz=16_000) < 0.01


def test_the_result_is_what_librosa_makes_of_it() -> None:
    """Mean of the channels as float32, then soxr HQ over the whole, the length rounded up."""
    noise = np.random.default_rng(1).standard_normal((44_100, 2)).astype(np.float32) * 0.1
    data = wav_file(noise.astype("<f4").tobytes(), tag=3, bits=32, num_channels=2, rate_hz=44_100)
    expected = soxr.resample(noise.mean(axis=1), 44_100, 16_000, "HQ")
    samples = decode(data)
    assert len(samples) == 16_000
    assert np.abs(samples - expected).max() < 1e-6


@pytest.mark.parametrize("num_samples", [1, 2, 100, 12_345])
def test_lengths_are_rounded_up(num_samples: int) -> None:
    for rate_hz in (8_000, 11_025, 44_100, 48_000):
        data = wav_file(int16(tone(num_samples)).tobytes(), rate_hz=rate_hz)
        assert len(decode(data)) == -(-num_samples * 16_000 // rate_hz)


@pytest.mark.parametrize("container", ["aiff", "caf", "mov"])
def test_files_that_name_each_channel_do_not_bring_the_process_down(container: str) -> None:
    """In a process of its own: it is an abort that must not come, and it may come late."""
    codec = "pcm_s16be" if container == "aiff" else "pcm_s16le"
    upload = file_with(container, codec, tone(4_000), layout="7.1")
    program = """
import sys
from qwen3_audio.audio.decode import decode_audio
upload = sys.stdin.buffer.read()
for _ in range(50):
    print(len(decode_audio(upload, sample_rate_hz=24_000, max_seconds=1)))
"""
    run = subprocess.run([sys.executable, "-c", program], input=upload, capture_output=True)
    assert run.returncode == 0 and run.stdout.split() == [b"4000"] * 50


@pytest.mark.parametrize("num_channels", [8, 10, 60])
def test_codecs_with_very_many_channels_are_read(num_channels: int) -> None:
    layout = f"{num_channels} channels"
    options = {"mapping_family": "255"}
    samples = tone(48_000, rate_hz=48_000)
    data = file_with("ogg", "libopus", samples, rate_hz=48_000, layout=layout, options=options)
    middle = decode(data)[4_000:12_000]
    assert strength(middle, pitch_hz=220, rate_hz=16_000) == pytest.approx(0.3, rel=0.06)


@pytest.mark.parametrize("name", ["opus", "flac", "mp3", "aac"])
def test_neither_name_nor_extension_decides(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sound.sdp"
    path.write_bytes(encode_whole(name, tone(ONE_SECOND)))
    with path.open("rb") as file:
        file.read(10)  # nor where somebody stopped reading
        samples = decode_audio(file, sample_rate_hz=16_000, max_seconds=2)
        assert len(samples) == pytest.approx(16_000, abs=2_000)
        assert not file.closed


def test_an_upload_kept_in_memory_or_on_disk_is_read_alike() -> None:
    for data in (encode_whole("wav", tone(ONE_SECOND)), encode_whole("flac", tone(ONE_SECOND))):
        for max_size in (1, 10**9):
            with tempfile.SpooledTemporaryFile(max_size) as upload:
                upload.write(data)
                samples = decode_audio(upload, sample_rate_hz=16_000, max_seconds=2)
            assert np.array_equal(samples, decode(data))


def test_a_streamed_flac_of_unknown_length_is_read() -> None:
    out = io.BytesIO()

    class Pipe:
        write = out.write

    with av.open(Pipe(), "w", format="flac") as file:
        stream = file.add_stream("flac", rate=24_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(int16(tone(ONE_SECOND))[None], "s16", "mono")
        frame.sample_rate = 24_000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert len(decode(out.getvalue())) == 16_000


def test_two_streams_glued_together_are_both_heard() -> None:
    parts = [
        file_with("mp3", "libmp3lame", tone(rate_hz, rate_hz=rate_hz), rate_hz=rate_hz)
        for rate_hz in (24_000, 16_000)
    ]
    samples = decode(b"".join(parts))
    assert len(samples) == pytest.approx(32_000, abs=3_000)


def test_a_track_that_begins_midway_is_no_error() -> None:
    """PyAV raises IndexError behind the last packet of such a file; few and broken ones have it."""

    class Stumbling:
        def __init__(self, container: InputContainer) -> None:
            self.streams, self.container = container.streams, container

        def demux(self, stream: av.AudioStream) -> Iterator[av.Packet]:
            yield from self.container.demux(stream)
            raise IndexError("list index out of range")

    upload = io.BytesIO(file_with("flac", "flac", tone(ONE_SECOND)))
    with open_container(upload) as container:
        pieces = list(decode_container(cast(InputContainer, Stumbling(container))))
    assert sum(len(piece) for _, piece in pieces) == ONE_SECOND


def test_a_wrong_name_does_no_harm_where_the_content_says_little(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp3"

    def num_samples(source: bytes | BinaryIO) -> int:
        try:
            return len(decode_audio(source, sample_rate_hz=16_000, max_seconds=2))
        except BadRequest:
            return 0

    lengths = []
    for size in (100, 200, 300, 500, 800):  # a few frames of AAC might be many things
        data = encode_whole("aac", tone(3_000))[:size]
        path.write_bytes(data)
        with path.open("rb") as file:
            lengths.append(num_samples(file))
        assert lengths[-1] == num_samples(data)
    assert any(lengths)


def test_a_file_of_no_seconds_is_no_error() -> None:
    nothing = np.zeros(0, np.float32)
    for made in (("wav", "pcm_s16le"), ("flac", "flac"), ("aiff", "pcm_s16be")):
        assert len(decode(file_with(*made, nothing))) == 0
    for data in (b"#!AMR\n", wav_file(b""), wav_file(b"", trailer=chunk(b"LIST", b"no sound"))):
        assert len(decode(data)) == 0


def test_memory_stays_near_the_size_of_the_result() -> None:
    """Two minutes of stereo at 48 kHz are six times as large as what comes out at 16 kHz."""
    silence = np.zeros(48_000 * 120, np.float32)
    uploads = [
        file_with("flac", "flac", silence, rate_hz=48_000, layout="stereo"),
        wav_file(bytes(4 * 48_000 * 120), num_channels=2, rate_hz=48_000),
    ]
    del silence
    for upload in uploads:
        tracemalloc.start()
        samples = decode(upload, max_seconds=120)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(samples) == 16_000 * 120
        assert peak_bytes < 1.6 * samples.nbytes


@settings(deadline=None, max_examples=40)
@given(
    codec=st.sampled_from([("flac", "flac"), ("aiff", "pcm_s16be"), ("caf", "pcm_s24le")]),
    rate_hz=st.sampled_from([8_000, 22_050, 44_100, 48_000, 96_000]),
    layout=st.sampled_from(list(LAYOUTS)),
    num_samples=st.integers(1, 20_000),
)
def test_any_lossless_file_has_exactly_its_length(
    codec: tuple[str, str], rate_hz: int, layout: str, num_samples: int
) -> None:
    data = file_with(*codec, tone(num_samples, rate_hz=rate_hz), rate_hz=rate_hz, layout=layout)
    assert len(decode(data)) == -(-num_samples * 16_000 // rate_hz)
