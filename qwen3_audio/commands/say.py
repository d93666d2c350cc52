"""`qwen3-audio say TEXT`: the engine and the checks of the server, without the server."""

import argparse
import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

from qwen3_audio.assembly import load_backend
from qwen3_audio.audio.encode import Encoder
from qwen3_audio.audio.formats import FORMATS
from qwen3_audio.commands.arguments import read_checkpoints, read_settings
from qwen3_audio.errors import StartError
from qwen3_audio.orders import SamplingForm, SpeechForm, check_sampling, check_text
from qwen3_audio.service import SpeechService
from qwen3_audio.speaking import Spoken
from qwen3_audio.types import SPEECH_KINDS, SPEECH_RATE_HZ


def run(arguments: argparse.Namespace) -> int:
    """Speak into a file and say how long it became and which seed made it."""
    settings = read_settings(arguments)
    name = _format_of(arguments.out)
    form = SpeechForm(
        text=sys.stdin.read() if arguments.text == "-" else arguments.text,
        voice=arguments.voice,
        language=arguments.language,
        instructions=arguments.instructions,
        audio_sample=_read(arguments.reference),
        audio_sample_text=arguments.reference_text,
        sampling=SamplingForm(seed=arguments.seed),
    )
    check_text(form.text, max_chars=settings.max_input_chars)  # before models are loaded
    check_sampling(form.sampling)
    with Encoder(name, speed=arguments.speed, is_whole=True) as encoder:
        checkpoints = [c for c in read_checkpoints(arguments, settings) if c.kind in SPEECH_KINDS]
        backend = load_backend(checkpoints, settings)
        service = SpeechService(backend, settings)
        data, spoken, num_samples = asyncio.run(_speak(service, form, encoder))
    try:
        arguments.out.write_bytes(data)
    except OSError as error:
        raise StartError(f"Can't write {arguments.out}: {error.strerror}") from None
    print(
        f"{arguments.out}: {num_samples / SPEECH_RATE_HZ:.2f} s of sound, seed {spoken.seed},"
        f" ended by {spoken.reason}"
    )
    return 0


async def _speak(
    service: SpeechService, form: SpeechForm, encoder: Encoder
) -> tuple[bytes, Spoken, int]:
    try:
        order = await service.prepare_speech(1, form)
        for warning in order.warnings:
            print(f"qwen3-audio: {warning}", file=sys.stderr)
        spoken, num_samples = None, 0
        async with aclosing(service.speak(order, is_buffered=True)) as items:
            async for item in items:
                if isinstance(item, Spoken):
                    spoken = item
                else:
                    num_samples += len(item)
                    encoder.write(item)  # whole files come out at the end
        assert spoken is not None
        return encoder.finish(), spoken, num_samples
    finally:
        await service.close()


def _format_of(out: Path) -> str:
    by_extension = {row.extension: name for name, row in FORMATS.items()}
    name = by_extension.get(out.suffix.lower().removeprefix("."))
    if name is None:
        raise StartError(f"--out {out}: the extension must be one of {', '.join(by_extension)}")
    if not out.parent.is_dir():
        raise StartError(f"--out {out}: there is no folder {out.parent}")
    return name


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise StartError(f"Can't read {path}: {error.strerror}") from None
