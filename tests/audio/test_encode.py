import gc
import io
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import strength, tone

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.encode import Encoder, encode_whole
from qwen3_audio.audio.formats import FORMATS
from qwen3_audio.audio.wav import pcm16, wav_bytes, wav_header
from qwen3_audio.errors import BadRequest
from qwen3_audio.types import Pcm

PIECE = 1_920  # what the model makes at a time: 80 ms
# Samples at 24 kHz that a codec may add, before and after: its look-ahead and a filled-up frame.
PADDING = {"mp3": 2 * 1_152 + 600, "aac": 3 * 1_024, "opus": 0, "ogg": 0, "flac": 0, "wav": 0}


def encode_pieces(name: str, pieces: list[Pcm], **options: float) -> bytes:
    with Encoder(name, **options) as encoder:  # type: ignore[arg-type]
        return b"".join([*(encoder.write(piece) for piece in pieces), encoder.finish()])


def in_pieces(samples: Pcm, size: int = PIECE) -> list[Pcm]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def heard(name: str, data: bytes, *, rate_hz: int = 24_000) -> Pcm:
    if name == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768
    return decode_audio(data, sample_rate_hz=rate_hz, max_seconds=600)


def without_padding(name: str, samples: Pcm) -> Pcm:
    """Skips the codec's look-ahead, which the streamed formats have no place to declare."""
    start = {"mp3": 1_105, "aac": 1_024}.get(name, 0)
    return samples[start:]


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_decodes_to_the_same_sound(name: str) -> None:
    samples = tone(48_000)
    result = heard(name, encode_pieces(name, in_pieces(samples)))
    assert 0 <= len(result) - len(samples) <= PADDING.get(name, 0)
    close = without_padding(name, result)[4_800:43_200] - samples[4_800:43_200]
    assert np.sqrt(np.mean(close**2)) < 0.02
    assert strength(result, pitch_hz=220, rate_hz=24_000) == pytest.approx(0.3, rel=0.08)


@pytest.mark.parametrize(
    "name, latest",
    [("mp3", 1), ("opus", 1), ("ogg", 1), ("aac", 2), ("flac", 1), ("wav", 1), ("pcm", 1)],
)
def test_the_first_sound_leaves_with_the_first_piece(name: str, latest: int) -> None:
    """An AAC frame leaves only when the next is known: 2,048 samples, so with the second piece."""
    empty = len(encode_pieces(name, []))
    with Encoder(name) as encoder:
        early = sum(len(encoder.write(piece)) for piece in in_pieces(tone(PIECE * latest)))
        following = [len(encoder.write(piece)) for piece in in_pieces(tone(PIECE * 50))]
    assert early > empty
    assert empty < 200
    assert min(following) > 0  # and from then on with every piece


@pytest.mark.parametrize("name", ["flac", "wav", "pcm"])
def test_lossless_formats_hold_exactly_the_16_bit_samples(name: str) -> None:
    samples = tone(10_000)
    for data in (encode_pieces(name, in_pieces(samples, 777)), encode_whole(name, samples)):
        assert np.array_equal(heard(name, data) * 32768, np.frombuffer(pcm16(samples), "<i2"))


def test_at_speed_one_wav_and_pcm_are_the_bytes_of_the_samples() -> None:
    samples = tone(10_000)
    assert encode_pieces("pcm", in_pieces(samples), speed=1.0) == pcm16(samples)
    assert encode_pieces("wav", in_pieces(samples)) == wav_header(24_000) + pcm16(samples)
    assert encode_whole("wav", samples, speed=1.0) == wav_bytes(samples, 24_000)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
def test_a_whole_file_is_not_shorter_than_its_sound(name: str) -> None:
    with av.open(io.BytesIO(encode_whole(name, tone(60_000)))) as file:
        num_samples = sum(frame.samples for frame in file.decode(audio=0))
        rate_hz = file.streams.audio[0].rate
    assert num_samples / rate_hz == pytest.approx(2.5, abs=0.13)
    assert num_samples / rate_hz >= 2.5


def test_a_whole_flac_knows_its_length_and_a_streamed_one_does_not() -> None:
    lengths = []
    for data in (encode_whole("flac", tone(50_000)), encode_pieces("flac", [tone(50_000)])):
        with av.open(io.BytesIO(data)) as file:
            lengths.append(file.streams.audio[0].duration)
    assert lengths == [50_000, None]


def test_mp3_streams_have_no_header_about_the_whole_and_can_be_joined() -> None:
    data = encode_pieces("mp3", in_pieces(tone(24_000)))
    assert data[0] == 0xFF and data[1] & 0xE0 == 0xE0  # a frame, no ID3 tag
    assert not any(word in data for word in (b"Xing", b"Info", b"ID3", b"TAG"))
    assert len(heard("mp3", data + data)) == pytest.approx(2 * len(heard("mp3", data)), abs=1_200)


def test_ogg_streams_start_with_opus_and_aac_with_an_adts_frame() -> None:
    for name in ("opus", "ogg"):
        data = encode_pieces(name, [tone(PIECE)])
        assert data[:4] == b"OggS" and b"OpusHead" in data[:64]
    assert encode_pieces("aac", [tone(PIECE)])[:2] == b"\xff\xf1"


@pytest.mark.parametrize("name", FORMATS)
def test_no_sound_at_all_is_no_error(name: str) -> None:
    nothing = np.zeros(0, np.float32)
    headers = {"wav": b"RIFF", "flac": b"fLaC", "opus": b"OggS", "ogg": b"OggS"}
    for data in (encode_pieces(name, []), encode_whole(name, nothing)):
        assert data.startswith(headers[name]) if name in headers else data == b""
    assert encode_whole("wav", nothing) == wav_header(24_000, 0)


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.8, 1.25, 2.0, 3.3, 4.0])
def test_speed_changes_the_length_and_not_the_pitch(speed: float) -> None:
    samples = tone(48_000)
    result = heard("pcm", encode_pieces("pcm", in_pieces(samples), speed=speed))
    assert len(result) == round(48_000 / speed)
    middle = result[len(result) // 4 : len(result) // 4 + 4_800]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(4_800)))
    assert np.argmax(spectrum) * 5 == pytest.approx(220, abs=5)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)


def test_speed_works_while_streaming() -> None:
    for speed in (0.25, 1.5, 4.0):
        with Encoder("pcm", speed=speed) as encoder:
            sizes = [len(encoder.write(piece)) for piece in in_pieces(tone(PIECE * 20))]
        assert any(sizes[:3])
        assert all(any(sizes[start : start + 2]) for start in range(2, 19))


def test_every_sample_lasts_at_any_speed() -> None:
    for speed in (0.25, 0.7, 3.0):
        for num_samples in (1, 100, 1_000, 5_000):
            data = encode_whole("pcm", tone(num_samples), speed=speed)
            assert len(data) == 2 * round(num_samples / speed)


@pytest.mark.parametrize("speed", [0.0, 0.24, 4.01, -1.0, float("nan"), float("inf")])
def test_speeds_outside_a_quarter_to_four_are_refused(speed: float) -> None:
    with pytest.raises(BadRequest, match=r"0\.25 to 4") as refusal:
        Encoder("mp3", speed=speed)
    assert refusal.value.param == "speed"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_every_format_leaves_at_other_rates(name: str, rate_hz: int) -> None:
    data = encode_pieces(name, in_pieces(tone(24_000)), output_rate_hz=rate_hz)
    if name == "pcm":
        assert len(data) == 2 * rate_hz
        return
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.audio[0].rate == (
            48_000 if FORMATS[name].codec == "libopus" else rate_hz
        )
    result = heard(name, data)
    # Padding is a number of the codec's samples: at 8 kHz they last three times as long.
    assert 0 <= len(result) - 24_000 <= max(PADDING[name] * 24_000 // rate_hz, 2)
    assert strength(result, pitch_hz=220, rate_hz=24_000) == pytest.approx(0.3, rel=0.25)


@pytest.mark.parametrize("rate_hz", [0, -1, 7_999, 48_001])
def test_other_rates_are_refused_before_any_sound(rate_hz: int) -> None:
    with pytest.raises(BadRequest, match="8000 to 48000"):
        Encoder("wav", output_rate_hz=rate_hz)


def test_speed_and_rate_change_together() -> None:
    data = encode_whole("wav", tone(24_000), speed=2.0, output_rate_hz=8_000)
    assert len(data) == 44 + 2 * 4_000


def test_an_abandoned_encoder_gives_its_codec_back() -> None:
    encoder = Encoder("mp3", speed=1.5)
    encoder.write(tone(PIECE))
    container = weakref.ref(encoder._writer)
    encoder.close()
    encoder.close()
    with pytest.raises(ValueError, match="closed"):
        encoder.write(tone(PIECE))
    del encoder
    gc.collect()
    assert container() is None


@pytest.mark.parametrize("name", FORMATS)
def test_memory_does_not_grow_with_abandoned_encoders(name: str) -> None:
    def abandon(times: int) -> None:
        for _ in range(times):
            with Encoder(name) as encoder:
                encoder.write(tone(PIECE))

    abandon(20)
    sizes = [resident_bytes()]
    for _ in range(3):  # a leak grows each time, what the process does besides does not
        abandon(40)
        sizes.append(resident_bytes())
    growths = [after - before for before, after in pairwise(sizes)]
    assert min(growths) < 40 * 40_000  # one lost codec is 100 kB and more


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4_096


@pytest.mark.parametrize("name", FORMATS)
def test_pieces_may_come_from_different_threads(name: str) -> None:
    pieces = in_pieces(tone(24_000))
    with ThreadPoolExecutor(3) as threads, Encoder(name) as encoder:
        data = [threads.submit(encoder.write, piece).result() for piece in pieces]
        data.append(threads.submit(encoder.finish).result())
    alone = encode_pieces(name, pieces)  # Ogg has random serial numbers: sound is compared
    assert np.array_equal(heard(name, b"".join(data)), heard(name, alone))


@pytest.mark.parametrize("name", ["mp3", "aac", "opus", "flac"])
def test_closing_while_another_thread_writes_breaks_nothing(name: str) -> None:
    encoder = Encoder(name, speed=1.5)
    is_writing = threading.Event()

    def write_for_ever() -> None:
        while True:
            encoder.write(tone(PIECE))
            is_writing.set()

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write_for_ever)
        is_writing.wait()
        encoder.close()
        with pytest.raises(ValueError, match="closed"):
            writing.result()


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(list(FORMATS)),
    sizes=st.lists(st.integers(0, 5_000), min_size=1, max_size=8),
    speed=st.sampled_from([1.0, 1.0, 0.3, 0.77, 1.5, 3.9]),
    is_whole=st.booleans(),
)
def test_pieces_of_any_size_give_one_stream_of_the_right_length(
    name: str, sizes: list[int], speed: float, is_whole: bool
) -> None:
    sound = tone(sum(sizes))
    pieces = np.split(sound, np.cumsum(sizes)[:-1])
    data = encode_pieces(name, pieces, speed=speed, is_whole=is_whole)
    num_wanted = round(len(sound) / speed)
    # Nothing but several frames in a row tells AAC from noise; the other formats have a signature.
    if num_wanted == 0 or (name == "aac" and num_wanted < 4 * 1_024):
        return
    num_heard = len(heard(name, data))
    assert 0 <= num_heard - num_wanted <= PADDING.get(name, 0)
