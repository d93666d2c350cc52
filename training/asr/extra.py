"""Recordings of another voice to train on: a folder with manifest.json and sound files.

The manifest is a list of {"file": name, "text": what is said}. This is how Pocket-ASR comes to
know the voice of Pocket-TTS.
"""

from pathlib import Path

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.bench.manifest import read_manifest
from qwen3_audio.types import LISTEN_RATE_HZ
from training.asr.clips import MAX_FRAMES, Clip, unlabelled
from training.world.grammar import is_held_out, split_sentences

_MAX_S = MAX_FRAMES["long"] / 100


def read_extra(folder: Path) -> list[Clip]:
    """Every recording of at most 30 s in which no held-out sentence is said."""
    clips = []
    for recording in read_manifest(folder / "manifest.json"):
        text = recording.text or ""
        is_secret = any(map(is_held_out, split_sentences(text)))
        if recording.audio_s <= _MAX_S and not is_secret:
            samples = decode_audio(
                recording.data, sample_rate_hz=LISTEN_RATE_HZ, max_seconds=_MAX_S + 1
            )
            clips.append(unlabelled(samples, text))
    return clips
