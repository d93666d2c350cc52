"""What sound can be sent as: one row a format. Imports no codec, so that the web may read it."""

from dataclasses import dataclass

from qwen3_audio.errors import BadRequest
from qwen3_audio.types import SPEECH_RATE_HZ

MIN_OUTPUT_RATE_HZ = 8_000
MAX_OUTPUT_RATE_HZ = 48_000

_MPEG_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One output format; `muxer` and `codec` are ffmpeg's names, None where we write the bytes."""

    name: str
    content_type: str
    extension: str
    always_streams: bool  # False: buffered for exact sizes, unless the client says it streams
    muxer: str | None = None
    codec: str | None = None
    bit_rate: int | None = None
    rates_hz: tuple[int, ...] = ()  # rates the codec knows, ascending; empty: any
    muxer_options: tuple[tuple[str, str], ...] = ()

    def content_type_at(self, sample_rate_hz: int) -> str:
        """The content type, which for raw PCM names the rate."""
        if self.name != "pcm":
            return self.content_type
        return f"audio/pcm;rate={sample_rate_hz};channels=1"


def _ogg_opus(name: str, content_type: str, extension: str) -> AudioFormat:
    return AudioFormat(
        name,
        content_type,
        extension,
        always_streams=True,
        muxer="ogg",
        codec="libopus",
        bit_rate=64_000,
        rates_hz=_OPUS_RATES_HZ,
        # A page for every packet: the muxer's own second of sound a page would hold it all back.
        muxer_options=(("page_duration", "20000"),),
    )


FORMATS = {
    row.name: row
    for row in (
        AudioFormat(
            "mp3",
            "audio/mpeg",
            "mp3",
            always_streams=True,
            muxer="mp3",
            codec="libmp3lame",
            bit_rate=96_000,
            rates_hz=_MPEG_RATES_HZ,
            # No header about the whole, so that streams glued together still play to the end.
            muxer_options=(("write_xing", "0"), ("id3v2_version", "0")),
        ),
        _ogg_opus("opus", "audio/opus", "opus"),
        AudioFormat(
            "aac",
            "audio/aac",
            "aac",
            always_streams=True,
            muxer="adts",
            codec="aac",
            bit_rate=96_000,
            rates_hz=_MPEG_RATES_HZ,
        ),
        AudioFormat(
            "flac",
            "audio/flac",
            "flac",
            always_streams=False,
            muxer="flac",
            codec="flac",
            # The muxer would leave room for titles: 8 kB before the first sound.
            muxer_options=(("metadata_header_padding", "0"),),
        ),
        AudioFormat("wav", "audio/wav", "wav", always_streams=False),
        AudioFormat(
            "pcm", f"audio/pcm;rate={SPEECH_RATE_HZ};channels=1", "pcm", always_streams=True
        ),
        _ogg_opus("ogg", "audio/ogg", "ogg"),
    )
}


def get_format(name: str, *, param: str = "response_format") -> AudioFormat:
    """The row of a format; BadRequest with all names if there is none."""
    row = FORMATS.get(name)
    if row is None:
        raise BadRequest(f"{param} must be one of {', '.join(FORMATS)}.", param=param)
    return row


def get_codec_rate_hz(row: AudioFormat, output_rate_hz: int) -> int:
    """The rate to encode at; BadRequest where the format cannot carry the wanted one.

    Opus carries every rate inside the next higher one of its own: players hear 48 kHz anyway.
    """
    if not MIN_OUTPUT_RATE_HZ <= output_rate_hz <= MAX_OUTPUT_RATE_HZ:
        raise BadRequest(
            f"sample_rate must be {MIN_OUTPUT_RATE_HZ} to {MAX_OUTPUT_RATE_HZ}.",
            param="sample_rate",
        )
    if not row.rates_hz or output_rate_hz in row.rates_hz:
        return output_rate_hz
    if row.codec == "libopus":
        return next(rate_hz for rate_hz in row.rates_hz if rate_hz > output_rate_hz)
    choices = ", ".join(map(str, row.rates_hz))
    raise BadRequest(f"sample_rate for {row.name} must be one of {choices}.", param="sample_rate")
