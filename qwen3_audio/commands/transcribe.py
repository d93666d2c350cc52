"""`qwen3-audio transcribe FILE...`: the engine and the checks of the server, without the server."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from qwen3_audio.assembly import load_backend
from qwen3_audio.commands.arguments import read_checkpoints, read_settings
from qwen3_audio.errors import SpeechError
from qwen3_audio.orders import TranscriptionForm
from qwen3_audio.service import SpeechService
from qwen3_audio.types import ModelKind, Transcript
from qwen3_audio.web.subtitles import format_srt, format_vtt


def run(arguments: argparse.Namespace) -> int:
    """Write each file's words to standard output; 1 if one failed, after the others were tried."""
    settings = read_settings(arguments)
    checkpoints = [c for c in read_checkpoints(arguments, settings) if c.kind is ModelKind.ASR]
    backend = load_backend(checkpoints, settings)
    return asyncio.run(_transcribe_all(SpeechService(backend, settings), arguments))


async def _transcribe_all(service: SpeechService, arguments: argparse.Namespace) -> int:
    failed = False
    try:
        for path in arguments.files:
            try:
                transcript = await _transcribe(service, path, arguments)
            except (SpeechError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                print(f"qwen3-audio: {path}: {reason}", file=sys.stderr)
                failed = True
                continue
            if len(arguments.files) > 1 and arguments.format == "text":
                print(f"{path}: ", end="")
            print(FORMATS[arguments.format](transcript), flush=True)
    finally:
        await service.close()
    return 1 if failed else 0


async def _transcribe(
    service: SpeechService, path: Path, arguments: argparse.Namespace
) -> Transcript:
    with path.open("rb") as audio:
        form = TranscriptionForm(
            audio=audio, language=arguments.language, prompt=arguments.prompt or ""
        )
        order = await service.prepare_transcription(1, form)
    async with aclosing(service.transcribe(order)) as items:
        async for item in items:
            if isinstance(item, Transcript):
                return item
    raise AssertionError("a transcription ends with its transcript")


def _json(transcript: Transcript) -> str:
    fields = {
        "text": transcript.text,
        "language": transcript.language,
        "duration": round(transcript.duration_s, 3),
    }
    return json.dumps(fields, ensure_ascii=False)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": lambda transcript: transcript.text,
    "json": _json,
    "srt": lambda transcript: format_srt(transcript.segments),
    "vtt": lambda transcript: format_vtt(transcript.segments),
}
