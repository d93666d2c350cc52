"""Transcribes with the official package and keeps the tokens; runs in its environment."""

from typing import Any

import numpy as np
import torch
from qwen_asr import Qwen3ASRModel  # type: ignore[import-not-found]

from training.measure.official_answer import Json, read_order, read_sound, write_answer

RATE_HZ = 16_000


def main() -> None:
    order = read_order()
    torch.set_num_threads(1)
    model = Qwen3ASRModel.from_pretrained(
        order["checkpoint"],
        dtype=torch.float32,
        device_map="cpu",
        max_new_tokens=order["max_tokens"],
    )
    generate, kept = model.model.generate, []

    def listen(**inputs: Any) -> Any:
        result = generate(**inputs)
        kept.append(result.sequences[0, inputs["input_ids"].shape[1] :].cpu().numpy())
        return result

    model.model.generate = listen
    arrays: Json = {}
    heard: list[list[str]] = []
    for number in range(order["num_sounds"]):
        [answer] = model.transcribe(audio=(read_sound(order, number), RATE_HZ))
        arrays[f"tokens {number}"] = kept[-1].astype(np.int32)
        heard.append([answer.language or "", answer.text])
    write_answer(order, arrays, ("qwen-asr", "transformers", "torch"), heard=heard)


if __name__ == "__main__":
    main()
