"""Recordings of the voice itself, from which Pocket-ASR comes to know it.

The codes are the lexicon's and the sound is the codec's, so no talker is needed, and what is said
is what is written. Nothing that is held out is ever said.
"""

import json
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.types import SPEECH_RATE_HZ
from training.run import say, write_text
from training.tts.assemble import load_average
from training.tts.codec import build_decoder
from training.tts.lexicon import Lexicon, with_speaker
from training.tts.quantiser import Codes
from training.tts.reader import Reader
from training.tts.voices import VOICES
from training.world.grammar import utterance

MAX_FRAMES = 360  # 28.8 s: recognition is trained on pieces of at most 30 s
_RANDOM_SHARE = 0.4
_FAST_SHARE, _SLOW_SHARE = 0.15, 0.15
_SEED = 40_000
_REPORT_EVERY = 200


def recite(work: Path, folder: Path, number: int) -> None:
    """So many utterances, `0000.wav` and so on, and their texts as manifest.json.

    Raises NotTrained where there is no codec yet.
    """
    lexicon = Lexicon.load(work / "lexicon")
    decoder = load_average(work, "codec", build_decoder(lexicon))
    reader = Reader(lexicon)
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(_SEED)
    rows: list[dict[str, str]] = []
    while len(rows) < number:
        text, codes = _draw(reader, rng)
        if len(codes) > MAX_FRAMES:
            continue
        name = f"{len(rows):04d}.wav"
        samples = _decode(decoder, codes)
        (folder / name).write_bytes(wav_bytes(samples.numpy(), SPEECH_RATE_HZ))
        rows.append({"file": name, "text": text})
        if len(rows) % _REPORT_EVERY == 0:
            say(f"recordings: {len(rows)} of {number}")
    write_text(folder / "manifest.json", json.dumps(rows, indent=0))


def _draw(reader: Reader, rng: Random) -> tuple[str, Codes]:
    text = utterance(rng, random_share=_RANDOM_SHARE)
    tempo = rng.random()
    gap = rng.choice((1, 2)) if tempo > 1 - _SLOW_SHARE else 0
    codes = reader.codes(text, is_fast=tempo < _FAST_SHARE, gap=gap)
    return text, with_speaker(codes, rng.choice(VOICES))


@torch.inference_mode()
def _decode(decoder: nn.Module, codes: Codes) -> Tensor:
    sound: Tensor = decoder(torch.from_numpy(codes.astype(np.int64))[None])[0]
    return sound.float().clamp(-1, 1)
