"""Bad uploads: every refusal is a BadRequest, and nothing but the upload is ever opened."""

import io
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import file_with, int16, tone, wav_file

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.encode import encode_whole
from qwen3_audio.errors import BadRequest
from qwen3_audio.types import Pcm

CONTAINERS = {
    "mp3": ("mp3", "libmp3lame"),
    "mp4": ("mp4", "aac"),
    "webm": ("webm", "libopus"),
    "ogg": ("ogg", "libopus"),
    "flac": ("flac", "flac"),
    "aac": ("adts", "aac"),
    "mpeg": ("mpeg", "mp2"),
    "aiff": ("aiff", "pcm_s16be"),
    "caf": ("caf", "pcm_s16le"),
    "wav": ("wav", "pcm_s16le"),
    "wav adpcm": ("wav", "adpcm_ms"),
}
PLAIN = {
    kind: file_with(*made, tone(12_000)) for kind, made in CONTAINERS.items() if kind != "webm"
}
PLAIN["webm"] = file_with("webm", "libopus", tone(24_000, rate_hz=48_000), rate_hz=48_000)
MAGIC = (
    *(b"", b"RIFF", b"ID3\4", b"OggS", b"fLaC", b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3"),
    *(b"\xff\xfb", b"\xff\xf1", b"FORM\0\0\1\0AIFF", b"caff\0\1\0\0", b"\0\0\1\xba"),
)


def decode(data: bytes, *, max_seconds: float = 60.0) -> Pcm:
    return decode_audio(data, sample_rate_hz=16_000, max_seconds=max_seconds, param="file")


def refusal_of(data: bytes, *, max_seconds: float = 60.0) -> BadRequest:
    with pytest.raises(BadRequest) as refusal:
        decode(data, max_seconds=max_seconds)
    assert refusal.value.__cause__ is None and refusal.value.__suppress_context__
    return refusal.value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 5_000,
        b"hello, I am a text and no sound at all\n" * 200,
        b"<!doctype html><html><body>no</body></html>",
        b'{"error": "not found"}',
        b"%PDF-1.7\n" + bytes(range(256)) * 8,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0\x90wS\xde",
        b"PK\3\4" + bytes(range(256)) * 8,
        b"RIFF",
        b"RIFF\xff\xff\xff\xffWAVE",
        b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0",
        b"ID3\4\0\0\0\0\0\0",
        b"OggS\0\2" + b"\0" * 22,
        b"fLaC\0\0\0\x22" + b"\0" * 34,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_sound_is_refused(data: bytes) -> None:
    error = refusal_of(data)
    assert (error.code, error.param) == ("invalid_audio", "file")
    assert "wav, mp3" in str(error)  # says what would be right


def test_the_caller_names_the_field() -> None:
    with pytest.raises(BadRequest) as refusal:
        decode_audio(b"", sample_rate_hz=24_000, max_seconds=1, param="audio_sample")
    assert refusal.value.param == "audio_sample"


def test_a_film_without_sound_is_refused() -> None:
    for container, codec in (("matroska", "libvpx"), ("mp4", "mpeg4"), ("mpeg", "mpeg1video")):
        out = io.BytesIO()
        with av.open(out, "w", format=container) as file:
            stream = file.add_stream(codec, rate=25, width=64, height=64, pix_fmt="yuv420p")
            for index in range(25):
                frame = av.VideoFrame.from_ndarray(np.full((96, 64), 128, np.uint8), "yuv420p")
                frame.pts = index
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        assert "no audio track that can be read" in str(refusal_of(out.getvalue()))


@pytest.mark.parametrize("kind", PLAIN)
def test_a_file_cut_off_is_refused_or_gives_what_is_there(kind: str) -> None:
    whole = len(decode(PLAIN[kind]))
    for part in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        try:
            samples = decode(PLAIN[kind][: int(len(PLAIN[kind]) * part)])
        except BadRequest as error:
            assert error.code == "invalid_audio"
        else:
            assert len(samples) <= whole


def test_a_file_cut_off_before_its_sound_is_refused() -> None:
    wav = wav_file(int16(tone(1_000)).tobytes())
    for data in (wav[:20], wav[:40], wav[:44], PLAIN["flac"][:42], PLAIN["aiff"][:54]):
        assert refusal_of(data).code == "invalid_audio"


def test_a_film_index_that_is_missing_is_refused() -> None:
    data = PLAIN["mp4"]
    assert data[4:8] == b"ftyp" and b"moov" in data[-2_000:]
    assert refusal_of(data[: data.index(b"moov")]).code == "invalid_audio"


@pytest.mark.parametrize("kind", PLAIN)
def test_longer_than_allowed_is_refused_and_names_both_lengths(kind: str) -> None:
    error = refusal_of(PLAIN[kind], max_seconds=0.25)
    assert (error.code, error.param) == ("audio_too_long", "file")
    assert "0.25 seconds are taken" in str(error)
    assert "0.5 seconds long" in str(error) or "over 0.25 seconds long" in str(error)


def test_exactly_as_long_as_allowed_is_taken() -> None:
    for rate_hz in (16_000, 44_100, 11_025):
        data = wav_file(int16(tone(3 * rate_hz)).tobytes(), rate_hz=rate_hz)
        assert len(decode(data, max_seconds=3)) == 48_000
        assert len(decode(encode_whole("flac", tone(72_000)), max_seconds=3)) == 48_000
        longer = wav_file(int16(tone(3 * rate_hz + 1)).tobytes(), rate_hz=rate_hz)
        assert refusal_of(longer, max_seconds=3).code == "audio_too_long"


class CountingFile(io.BytesIO):
    num_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.num_read += len(data)
        return data


def test_decoding_stops_at_the_limit() -> None:
    """Ten minutes of silence are small as FLAC; only the beginning of them is ever read."""
    minute = np.random.default_rng(2).standard_normal(600_000).astype(np.float32) * 0.05
    file = CountingFile(encode_whole("flac", minute))
    with pytest.raises(BadRequest, match=r"25\.0 seconds long"):
        decode_audio(file, sample_rate_hz=16_000, max_seconds=1)
    assert file.num_read < len(file.getvalue()) // 2


def test_a_wav_that_is_too_long_is_refused_by_its_header() -> None:
    file = CountingFile(wav_file(bytes(32_000 * 100)))
    with pytest.raises(BadRequest, match=r"100\.0 seconds long"):
        decode_audio(file, sample_rate_hz=16_000, max_seconds=60)
    assert file.num_read < 100


@pytest.mark.parametrize("rate_hz", [0, 1, 999, 768_001, 0xFFFFFFFF])
def test_impossible_sample_rates_are_refused(rate_hz: int) -> None:
    data = wav_file(bytes(100), rate_hz=rate_hz)
    assert refusal_of(data, max_seconds=1_000).code == "invalid_audio"


@pytest.mark.parametrize("num_channels, bits", [(0, 16), (1, 0), (1, 12_000), (65_535, 16)])
def test_impossible_layouts_are_refused_or_silent(num_channels: int, bits: int) -> None:
    header = struct.pack("<HHIIHH", 1, num_channels, 16_000, 32_000, 0, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + header + b"data\0\1\0\0" + bytes(256)
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    try:
        assert len(decode(data)) == 0
    except BadRequest as error:
        assert error.code == "invalid_audio"


def test_an_upload_cannot_claim_memory_that_it_does_not_fill() -> None:
    """In a process of its own, for its peak of memory; a huge title makes ffmpeg reserve it."""
    title = b"LIST" + struct.pack("<I", 2**31 - 20) + b"INFOINAM" + struct.pack("<I", 2**31 - 40)
    upload = wav_file(b"", tag=0x55, extra=title)
    program = """
import re, sys
from pathlib import Path
from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.errors import BadRequest
try:
    decode_audio(sys.stdin.buffer.read(), sample_rate_hz=16_000, max_seconds=1)
except BadRequest as error:
    peak_kb = int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
    print(error.code, peak_kb < 300_000)
"""
    run = subprocess.run([sys.executable, "-c", program], input=upload, capture_output=True)
    assert run.stdout.split() == [b"invalid_audio", b"True"]


@pytest.fixture
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A server on this machine that notes whoever comes."""
    visits: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    visits.append(connection.recv(1_000))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], visits
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def playlists(port: int, path: Path) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}/sound.wav"
    return {
        "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n",
        "hls file": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{path}\n#EXT-X-ENDLIST\n",
        "hls concat": f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:5,\nconcat:{url}|{path}\n",
        "m3u": f"{url}\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{path}'\n",
        "ffconcat url": f"ffconcat version 1.0\nfile '{url}'\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT5S"><Period><AdaptationSet mimeType="audio/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>",
        "smooth": f'<?xml version="1.0"?><SmoothStreamingMedia Url="{url}"/>',
        "asx": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
        "rtsp": f"[Reference]\nRef1=http://127.0.0.1:{port}/sound.asf\n",
        "pls": f"[playlist]\nFile1={url}\nNumberOfEntries=1\n",
        "path": str(path),
        "url": url,
    }


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A file that notes whoever opens it to read, and then gives a good sound."""
    path = tmp_path / "secret.wav"
    os.mkfifo(path)
    visits: list[str] = []
    is_over = threading.Event()

    def wait_for_a_reader() -> None:
        with path.open("wb") as file:
            if not is_over.is_set():
                visits.append("opened")
                file.write(PLAIN["wav"])

    thread = threading.Thread(target=wait_for_a_reader)
    thread.start()
    yield path, visits
    is_over.set()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    thread.join()
    os.close(reader)


@pytest.mark.parametrize("kind", playlists(0, Path()))
def test_playlists_are_refused_and_open_neither_file_nor_socket(
    kind: str, listener: tuple[int, list[bytes]], secret: tuple[Path, list[str]]
) -> None:
    port, socket_visits = listener
    path, file_visits = secret
    error = refusal_of(playlists(port, path)[kind].encode())
    assert error.code == "invalid_audio"
    assert str(path) not in str(error) and "127.0.0.1" not in str(error)
    assert socket_visits == [] and file_visits == []


def test_a_description_of_a_stream_is_not_waited_for() -> None:
    """ffmpeg would listen for the sound that an SDP file announces until the time is up."""
    error = refusal_of(playlists(9, Path())["sdp"].encode())
    chain = [error.__context__, error.__context__ and error.__context__.__context__]
    assert [type(link) for link in chain[1:]] == [av.ArgumentError]  # not on the list of formats


def test_formats_off_the_list_are_refused() -> None:
    for made in (("avi", "pcm_s16le"), ("flv", "libmp3lame"), ("au", "pcm_s16be")):
        data = file_with(*made, tone(22_050, rate_hz=22_050), rate_hz=22_050)
        assert refusal_of(data).code == "invalid_audio"
    for made in (("matroska", "wavpack"), ("matroska", "tta")):
        options = {"strict": "-2"}
        data = file_with(*made, tone(48_000, rate_hz=48_000), rate_hz=48_000, options=options)
        assert "no audio track that can be read" in str(refusal_of(data))


@settings(deadline=None, max_examples=200)
@given(
    start=st.sampled_from(MAGIC),
    rest=st.binary(max_size=600),
)
def test_random_bytes_are_refused_or_sound_but_nothing_else(start: bytes, rest: bytes) -> None:
    try:
        samples = decode(start + rest)
    except BadRequest as error:
        assert error.code in ("invalid_audio", "audio_too_long")
    else:
        assert np.isfinite(samples).all()


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(sorted(PLAIN)),
    changes=st.lists(
        st.tuples(st.integers(0, 3_000), st.binary(min_size=1, max_size=8)), max_size=6
    ),
    length=st.integers(0, 6_000),
)
def test_damaged_files_are_refused_or_sound_but_nothing_else(
    kind: str, changes: list[tuple[int, bytes]], length: int
) -> None:
    data = bytearray(PLAIN[kind][:length] if length > 100 else PLAIN[kind])
    for position, replacement in changes:
        data[position : position + len(replacement)] = replacement
    try:
        samples = decode(bytes(data))
    except BadRequest as error:
        assert error.code in ("invalid_audio", "audio_too_long")
    else:
        assert np.isfinite(samples).all() and (np.abs(samples) <= 1).all()


@settings(deadline=None, max_examples=200)
@given(header=st.binary(min_size=16, max_size=40), size=st.integers(0, 2**32 - 1))
def test_any_wav_header_is_refused_or_sound(header: bytes, size: int) -> None:
    body = b"WAVEfmt " + struct.pack("<I", len(header)) + header + b"data"
    data = b"RIFF" + struct.pack("<I", size) + body + struct.pack("<I", size) + bytes(range(200))
    try:
        assert np.isfinite(decode(data)).all()
    except BadRequest as error:
        assert error.code in ("invalid_audio", "audio_too_long")
