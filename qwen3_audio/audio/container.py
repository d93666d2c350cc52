"""What a stranger sent, taken apart by ffmpeg's libraries, and what they may do meanwhile.

Everything here that looks odd was needed: each defence has a test that fails, or crashes, without.
"""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import BinaryIO

import av
import av._core
from av.container import InputContainer

from qwen3_audio.audio.mono import mix_to_mono
from qwen3_audio.types import Pcm

_CONTAINERS = (
    "wav,w64,mp3,mov,mp4,m4a,matroska,webm,ogg,flac,aac,mpeg,mpegts,mpegvideo,aiff,caf,amr,asf"
)
# Nothing else ever runs on an upload: no video decoder, none of ffmpeg's hundreds of rare ones.
_CODECS = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,alac,amrnb,amrwb,eac3,flac,gsm,gsm_ms,"
    "mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,pcm_alaw,pcm_bluray,pcm_dvd,pcm_f32be,pcm_f32le,"
    "pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,"
    "pcm_s8,pcm_u8,speex,vorbis,wmav1,wmav2"
)
_OPTIONS = {
    "format_whitelist": _CONTAINERS,
    "codec_whitelist": _CODECS,
    "protocol_whitelist": "none",
}
_TIMEOUT_S = 20.0  # of one step of ffmpeg's; an upload lies here whole, so nothing has to wait
# A file of 100 bytes may announce a title of 2 GB, for which ffmpeg makes room before it reads.
_MAX_ALLOCATION_BYTES = 128 * 2**20
# PyAV looks for the end of a frame's list of planes behind its 8 entries and can crash the process
# (seen with 18.1): frames with that many are interleaved first, which makes them one plane.
_UNSAFE_PLANES = 8

SENDABLE = "send wav, mp3, mp4, m4a, webm, ogg, flac, aac or mpeg"
DAMAGED = f"The file is damaged or cut off: no sound in it could be decoded; {SENDABLE}."

Pieces = Iterator[tuple[int, Pcm]]  # rate in Hz, mono samples


class RefusedError(Exception):
    """Why an upload is no audio for us, in words for its sender."""

    def __init__(self, message: str, code: str = "invalid_audio") -> None:
        super().__init__(message)
        self.code = code


def open_container(file: BinaryIO) -> InputContainer:
    """RefusedError if the content is none of the formats on the list, whatever the file's name."""
    _limit_allocations()
    file.seek(0)
    try:
        return av.open(
            _NamelessFile(file),
            "r",
            container_options=_OPTIONS,
            metadata_errors="replace",
            timeout=_TIMEOUT_S,
        )
    except av.FFmpegError:
        raise RefusedError(f"The file is not audio that can be read; {SENDABLE}.") from None


def decode_container(container: InputContainer) -> Pieces:
    """The first audio track, frame by frame; damaged packets are left out, as players do."""
    stream = _find_stream(container)
    _forget_layout(stream.codec_context)
    is_damaged, has_sound = False, False
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, IndexError):
            # Cut off; or PyAV stumbles, at the very end, over a track that began midway.
            is_damaged = True
            break
        if packet is None:
            break
        try:
            pieces = [(frame.sample_rate, _mix_frame(frame)) for frame in stream.decode(packet)]
        except av.FFmpegError:
            is_damaged = True
            continue
        has_sound = has_sound or bool(pieces)
        yield from pieces
    if is_damaged and not has_sound:
        raise RefusedError(DAMAGED)


class _NamelessFile:
    """Only what ffmpeg needs: a file's name would take part in guessing the format."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


@cache
def _limit_allocations() -> None:
    """For ffmpeg's libraries in the whole process: there is no narrower switch, nor one in PyAV."""
    library = ctypes.CDLL(av._core.__file__)  # shows the functions of what it is linked to
    with suppress(AttributeError):  # not on Windows
        library.av_max_alloc.argtypes = [ctypes.c_size_t]
        library.av_max_alloc.restype = None
        library.av_max_alloc(_MAX_ALLOCATION_BYTES)


def _find_stream(container: InputContainer) -> av.AudioStream:
    names = _CODECS.split(",")
    for stream in container.streams.audio:
        context = stream.codec_context
        if context is not None and context.codec.name in names:
            return stream
    raise RefusedError(f"The file has no audio track that can be read; {SENDABLE}.")


def _forget_layout(context: av.AudioCodecContext) -> None:
    """Leaves of the file's channel layout only the number of channels: a mean needs no more.

    PyAV (seen with 18.1) frees a map of named channels, as AIFF, CAF and MOV may carry, once with
    every frame and once more behind it, which ends the process. Here it is freed once, and early.
    """
    layout = context.layout  # shares the map with the context, which is overwritten unfreed
    if layout.nb_channels:
        context.layout = f"{layout.nb_channels} channels"


def _mix_frame(frame: av.AudioFrame) -> Pcm:
    num_channels = frame.layout.nb_channels
    if frame.format.is_planar and num_channels >= _UNSAFE_PLANES:
        (frame,) = av.AudioResampler(format="flt").resample(frame)
    samples = frame.to_ndarray()
    return mix_to_mono(samples.T if frame.format.is_planar else samples.reshape(-1, num_channels))
