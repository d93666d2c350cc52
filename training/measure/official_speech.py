"""Speaks greedily with the official package and keeps the codes; runs in its environment."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.official_loading import load_speech_model
from training.measure.official_answer import Json, read_order, read_sound, write_answer

GREEDY = {"do_sample": False, "subtalker_dosample": False, "non_streaming_mode": True}
RATE_HZ = 24_000


def main() -> None:
    order = read_order()
    torch.set_num_threads(1)
    model = load_speech_model(Path(order["checkpoint"]), "float32")
    generate, kept = model.model.generate, []

    def listen(*args: Any, **kwargs: Any) -> Any:
        result = generate(*args, **kwargs)
        kept.append(result[0][0].cpu().numpy())
        return result

    model.model.generate = listen
    arrays: Json = {}
    for number, case in enumerate(order["cases"]):
        arrays[f"samples {number}"] = np.asarray(speak(model, order, case), np.float32)
        arrays[f"codes {number}"] = kept[-1].astype(np.int16)
    write_answer(order, arrays, ("qwen-tts", "transformers", "torch"))


def speak(model: Any, order: Json, case: Json) -> Any:
    """The last token never becomes a frame there, so there is one more."""
    options = GREEDY | {"max_new_tokens": order["max_frames"] + 1}
    options["language"] = case.get("language") or "Auto"
    text = case["text"]
    if order["kind"] == "custom_voice":
        sounds, _ = model.generate_custom_voice(text, speaker=case["speaker"], **options)
    elif order["kind"] == "voice_design":
        sounds, _ = model.generate_voice_design(text, instruct=case["instructions"], **options)
    else:
        said = case.get("reference_text")
        prompt = model.create_voice_clone_prompt(
            (read_sound(order, 0), RATE_HZ), ref_text=said, x_vector_only_mode=said is None
        )
        sounds, _ = model.generate_voice_clone(text, voice_clone_prompt=prompt, **options)
    return sounds[0]


if __name__ == "__main__":
    main()
