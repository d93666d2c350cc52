"""The options → how one request is made, over HTTP."""

from collections.abc import Sequence

from qwen3_audio.bench.http_client import HttpTarget
from qwen3_audio.bench.loops import Run
from qwen3_audio.bench.manifest import read_manifest
from qwen3_audio.bench.options import Options
from qwen3_audio.bench.speech_request import SpeechRun
from qwen3_audio.bench.transcription_request import Clip, TranscriptionRun, make_clip


def read_clips(options: Options) -> Sequence[Clip]:
    """None for speech. StartError names what is wrong with a manifest."""
    if options.kind == "speech":
        return ()
    return (
        [make_clip(options.clip_s)] if options.manifest is None else read_manifest(options.manifest)
    )


def build_run(target: HttpTarget, options: Options, clips: Sequence[Clip], *, is_ours: bool) -> Run:
    """Only a server of ours is sent more than OpenAI's own fields without being asked to."""
    if options.kind == "speech":
        return SpeechRun(
            target=target,
            texts=options.texts,
            voice=options.voice,
            model=options.model,
            response_format=options.response_format,
            num_frames=options.num_frames,
            is_ours=is_ours,
            fields=options.fields,
        )
    return TranscriptionRun(
        target=target,
        clips=clips,
        model=options.model,
        num_tokens=options.num_tokens,
        is_ours=is_ours,
        fields=options.fields,
    )
