import io
import wave

import numpy as np
from sound_files import tone

from qwen3_audio.audio.wav import pcm16, wav_bytes, wav_header


def test_a_header_with_a_length_is_what_the_standard_library_reads() -> None:
    data = wav_bytes(tone(1_000), 24_000)
    with wave.open(io.BytesIO(data)) as file:
        assert file.getparams()[:4] == (1, 2, 24_000, 1_000)
        assert file.readframes(2_000) == pcm16(tone(1_000))
    assert len(data) == 44 + 2_000


def test_a_header_without_a_length_has_the_largest_sizes() -> None:
    header = wav_header(24_000)
    assert len(header) == 44
    assert header[4:8] == header[40:44] == b"\xff\xff\xff\xff"


def test_a_length_beyond_four_gigabytes_becomes_the_largest_size() -> None:
    header = wav_header(24_000, 2**33)
    assert header[4:8] == header[40:44] == b"\xff\xff\xff\xff"


def test_samples_are_rounded_and_clipped_to_16_bits() -> None:
    samples = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 1.6 / 32767, -1.4 / 32767], np.float32)
    assert np.frombuffer(pcm16(samples), "<i2").tolist() == [0, 32767, -32767, 32767, -32767, 2, -1]


def test_what_is_no_number_is_silence() -> None:
    samples = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert np.frombuffer(pcm16(samples), "<i2").tolist() == [0, 32767, -32767]
