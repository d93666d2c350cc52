import io
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import cast

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


def test_the_same_rate_leaves_the_samples_as_they_are() -> None:
    numbers = np.arange(-32_768, 32_768, dtype="<i2")
    assert np.array_equal(decode(wav_file(numbers.tobytes())) * 32_768, numbers)


def test_only_sound_beyond_full_scale_is_made_softer() -> None:
    quiet = np.array([0.1, -0.2, 0.3], "<f4")
    loud = np.array([1.0, -4.0, 2.0], "<f4")
    assert decode(wav_file(quiet.tobytes(), tag=3, bits=32)) == pytest.approx(quiet)
    assert decode(wav_file(loud.tobytes(), tag=3, bits=32)) == pytest.approx(loud / 4)


@pytest.mark.parametrize("bits", [32, 64])
def test_what_is_no_number_is_silence(bits: int) -> None:
    values = np.array([0.5, np.nan, np.inf, -np.inf, -0.25], f"<f{bits // 8}")
    samples = decode(wav_file(values.tobytes(), tag=3, bits=bits))
    assert samples.tolist() == [0.5, 0.0, 0.0, 0.0, -0.25]


def test_absurdly_loud_numbers_stay_within_full_scale() -> None:
    values = np.array([1e300, -1e300, 1.0], "<f8")
    for rate_hz in (16_000, 44_100):
        samples = decode(wav_file(np.tile(values, 300).tobytes(), tag=3, bits=64, rate_hz=rate_hz))
        assert np.isfinite(samples).all() and np.abs(samples).max() <= 1.0


def test_a_stream_of_unknown_length_is_read_to_its_end() -> None:
    data = int16(tone(1_000)).tobytes()
    for size, riff_size in ((0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (0, 36), (0x7FFFFFFF, 0x7FFFFFFF)):
        assert len(decode(wav_file(data, data_size=size, riff_size=riff_size))) == 1_000


def test_a_stream_of_mu_law_is_read_to_its_end() -> None:
    data = wav_file(b"\x80\x00" * 500, tag=7, bits=8, data_size=0xFFFFFFFF, riff_size=0xFFFFFFFF)
    assert len(decode(data)) == 1_000


def test_a_data_chunk_longer_than_the_file_ends_with_the_file() -> None:
    data = int16(tone(1_000)).tobytes()
    assert len(decode(wav_file(data, data_size=1_000_000))) == 1_000


def test_an_odd_byte_at_the_end_is_left_out() -> None:
    data = int16(tone(1_000)).tobytes() + b"\x7f"
    assert len(decode(wav_file(data))) == 1_000
    assert len(decode(wav_file(data, data_size=0xFFFFFFFF))) == 1_000


def test_chunks_around_the_sound_are_no_sound() -> None:
    data = int16(tone(1_000)).tobytes()
    notes = chunk(b"LIST", b"INFOISFT" + b"x" * 101)
    assert len(decode(wav_file(data, extra=notes, trailer=notes))) == 1_000


def test_an_extensible_header_is_understood() -> None:
    values = np.array([0.5, -0.5], "<f4")
    data = wav_file(values.tobytes(), tag=3, bits=32, is_extensible=True)
    assert decode(data).tolist() == [0.5, -0.5]


def test_twenty_bits_lie_in_three_bytes_or_four() -> None:
    def header(block: int) -> bytes:
        return struct.pack("<HHIIHH", 1, 1, 16_000, 16_000 * block, block, 20)

    for block, half in ((3, b"\0\0\x40"), (4, b"\0\0\0\x40")):
        body = b"WAVE" + chunk(b"fmt ", header(block)) + chunk(b"data", half * 10)
        data = b"RIFF" + struct.pack("<I", len(body)) + body
        assert decode(data).tolist() == [0.5] * 10


def test_the_mean_of_many_channels_is_taken() -> None:
    for num_channels in (2, 8, 9, 40):
        values = np.zeros((100, num_channels), "<i2")
        values[:, 0] = 8_192
        data = wav_file(values.tobytes(), num_channels=num_channels)
        assert decode(data) == pytest.approx(np.full(100, 0.25 / num_channels))


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


def test_a_name_is_no_help_where_the_content_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sound.aac"
    path.write_bytes(encode_whole("aac", tone(100)))  # two frames could be anything
    with path.open("rb") as file, pytest.raises(BadRequest):
        decode_audio(file, sample_rate_hz=16_000, max_seconds=2)


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


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_plain_wav_has_the_right_length_and_level(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["u1", "<i2", "i3", "<i4", "<f4", "<f8"]))
    num_channels = data.draw(st.integers(1, 12))
    rate_hz = data.draw(st.integers(4_000, 200_000) | st.sampled_from([8_000, 16_000, 44_100]))
    num_frames = data.draw(st.integers(2_000, 6_000))
    level = data.draw(st.floats(-0.8, 0.8))  # a new rate overshoots by a tenth at both ends
    bits = 8 * int(kind[-1])
    upload = wav_file(
        constant(level, kind) * (num_frames * num_channels),
        tag=3 if "f" in kind else 1,
        bits=bits,
        num_channels=num_channels,
        rate_hz=rate_hz,
        data_size=data.draw(st.sampled_from([None, None, 0xFFFFFFFF])),
        is_extensible=data.draw(st.booleans()),
        extra=data.draw(st.sampled_from([b"", chunk(b"LIST", b"odd")])),
    )
    samples = decode(upload)
    assert len(samples) == -(-num_frames * 16_000 // rate_hz)
    middle = samples[len(samples) // 2]
    assert middle == pytest.approx(level, abs=0.02)


def constant(level: float, kind: str) -> bytes:
    """One sample of this level."""
    if kind == "u1":
        return bytes([round(level * 128) + 128])
    if kind == "i3":
        return round(level * 2**23).to_bytes(3, "little", signed=True)
    if "f" in kind:
        return np.array(level, kind).tobytes()
    return np.array(round(level * 2.0 ** (8 * int(kind[-1]) - 1)), kind).tobytes()


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
