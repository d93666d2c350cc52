"""Speaks sentences with the official package, greedily: an order on stdin, WAV files out."""

import json
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.official_loading import load_speech_model

MAX_FRAMES = 400
GREEDY = {"do_sample": False, "subtalker_dosample": False}


def main() -> None:
    order = json.load(sys.stdin)
    torch.set_num_threads(1)
    model = load_speech_model(Path(order["checkpoint"]), order["dtype"])
    for number, sentence in enumerate(order["sentences"]):
        sounds, rate_hz = model.generate_custom_voice(
            sentence["text"],
            speaker=sentence["speaker"],
            language="English",
            max_new_tokens=MAX_FRAMES,
            **GREEDY,
        )
        write_wav(Path(order["folder"], f"{number}.wav"), sounds[0], rate_hz)


def write_wav(path: Path, samples: np.ndarray[Any, Any], rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.round(samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
