"""An official package as one arm of a comparison; runs in its environment, see side_by_side.py."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.arms import Run, draw_sound, serve_runs
from benchmarks.peers.official_loading import load_speech_model


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    serve_runs(make_run)


def make_run(order: dict[str, Any]) -> Run:
    torch.set_num_threads(order["threads"])
    make = {"custom_voice": make_speak, "base": make_clone, "asr": make_transcribe}[order["task"]]
    return make(order)


def make_speak(order: dict[str, Any]) -> Run:
    model = load_speech_model(Path(order["folder"]), order["dtype"])

    def run(seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        start_s = time.perf_counter()
        sounds, _ = model.generate_custom_voice(
            order["text"],
            speaker="ryan",
            language="English",
            max_new_tokens=order["num_frames"] + 1,  # the package drops the last one
        )
        return _result(start_s, len(sounds[0]) / 1920)

    return run


def make_clone(order: dict[str, Any]) -> Run:
    model = load_speech_model(Path(order["folder"]), order["dtype"])
    reference = (draw_sound(order["reference_s"], 24_000), 24_000)

    def run(seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        start_s = time.perf_counter()
        sounds, _ = model.generate_voice_clone(
            order["text"],
            language="English",
            ref_audio=reference,
            ref_text=order["reference_text"],
            max_new_tokens=order["num_frames"] + 1,
            non_streaming_mode=True,
        )
        return _result(start_s, len(sounds[0]) / 1920)

    return run


def make_transcribe(order: dict[str, Any]) -> Run:
    from qwen_asr import Qwen3ASRModel

    model = Qwen3ASRModel.from_pretrained(
        order["folder"],
        dtype=getattr(torch, order["dtype"]),
        device_map="cpu",
        max_new_tokens=order["num_tokens"],
    )
    sound = draw_sound(order["audio_s"], 16_000)

    def run(seed: int) -> dict[str, float]:
        start_s = time.perf_counter()
        model.transcribe(audio=(sound, 16_000))
        return _result(start_s, order["num_tokens"])

    return run


def _result(start_s: float, units: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start_s, "units": units}


if __name__ == "__main__":
    main()
