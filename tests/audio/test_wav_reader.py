import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import chunk, int16, tone, wav_file

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.types import Pcm


def decode(data: bytes, *, rate_hz: int = 16_000, max_seconds: float = 60.0) -> Pcm:
    return decode_audio(data, sample_rate_hz=rate_hz, max_seconds=max_seconds)


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
