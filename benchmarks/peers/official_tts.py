"""The official speech package as an arm: orders on stdin, figures on stdout; in its environment."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import work
from benchmarks.peers.official_loading import load_speech_model

# The last token never becomes a frame there; the sampler's settings are the checkpoint's own.
OPTIONS = {
    "language": "English",
    "non_streaming_mode": True,
    "max_new_tokens": work.NUM_FRAMES + 1,
}


def build_run(model: Any, kind: str) -> Callable[[int], work.Done]:
    def speak() -> Any:
        if kind == "custom_voice":
            return model.generate_custom_voice(work.TEXT, speaker="ryan", **OPTIONS)
        sound = (work.reference(), work.REFERENCE_RATE_HZ)
        prompt = model.create_voice_clone_prompt(sound, ref_text=work.REFERENCE_TEXT)
        return model.generate_voice_clone(work.TEXT, voice_clone_prompt=prompt, **OPTIONS)

    def run(seed: int) -> work.Done:
        torch.manual_seed(seed)
        sounds, rate_hz = speak()
        seconds = len(np.asarray(sounds[0])) / rate_hz
        done = work.Done(round(seconds / work.FRAME_S), seconds)
        work.check_length(done, work.NUM_FRAMES)
        return done

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kind", choices=work.KINDS[:2], required=True)
    parser.add_argument("--dtype", required=True)
    given = parser.parse_args()
    model = load_speech_model(given.folder, given.dtype)
    work.answer_orders(build_run(model, given.kind), torch.set_num_threads)


if __name__ == "__main__":
    main()
