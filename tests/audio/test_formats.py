import subprocess
import sys

import pytest

from qwen3_audio.audio.formats import FORMATS, get_codec_rate_hz, get_format
from qwen3_audio.errors import BadRequest


def test_each_format_has_the_content_type_that_clients_know() -> None:
    assert {name: row.content_type for name, row in FORMATS.items()} == {
        "mp3": "audio/mpeg",
        "opus": "audio/opus",
        "aac": "audio/aac",
        "flac": "audio/flac",
        "wav": "audio/wav",
        "pcm": "audio/pcm;rate=24000;channels=1",
        "ogg": "audio/ogg",
    }


def test_only_raw_pcm_names_its_rate() -> None:
    assert get_format("pcm").content_type_at(8_000) == "audio/pcm;rate=8000;channels=1"
    assert get_format("wav").content_type_at(8_000) == "audio/wav"


def test_formats_with_exact_sizes_stream_only_when_asked() -> None:
    assert {name for name, row in FORMATS.items() if not row.always_streams} == {"wav", "flac"}


def test_an_unknown_format_is_refused_with_all_names() -> None:
    with pytest.raises(BadRequest, match=r"format must be one of mp3, opus, .*ogg") as refusal:
        get_format("MP4", param="format")
    assert refusal.value.param == "format"


@pytest.mark.parametrize("name", FORMATS)
def test_rates_outside_8_to_48_khz_are_refused(name: str) -> None:
    for rate_hz in (0, 7_999, 48_001):
        with pytest.raises(BadRequest, match="8000 to 48000") as refusal:
            get_codec_rate_hz(get_format(name), rate_hz)
        assert refusal.value.param == "sample_rate"


def test_a_codec_with_fixed_rates_names_them() -> None:
    with pytest.raises(BadRequest, match=r"mp3 must be one of 8000, .*48000"):
        get_codec_rate_hz(get_format("mp3"), 23_456)


def test_plain_formats_take_every_rate_and_opus_the_next_higher() -> None:
    assert get_codec_rate_hz(get_format("wav"), 23_456) == 23_456
    assert get_codec_rate_hz(get_format("opus"), 44_100) == 48_000
    assert get_codec_rate_hz(get_format("opus"), 24_000) == 24_000


def test_the_table_and_wav_bytes_need_no_codec_library() -> None:
    code = (
        "import sys; sys.modules['av'] = sys.modules['soxr'] = None;"
        "import qwen3_audio.audio.formats, qwen3_audio.audio.wav"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
