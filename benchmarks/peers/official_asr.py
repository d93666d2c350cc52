"""The official recognition package as an arm: orders on stdin, figures out; in its environment."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import work


def build_run(model: Any) -> Callable[[int], work.Done]:
    """Greedy, as the package always is; random weights hardly ever end by themselves."""
    generate, num_tokens = model.model.generate, []

    def listen(**inputs: Any) -> Any:
        result = generate(**inputs)
        num_tokens.append(result.sequences.shape[1] - inputs["input_ids"].shape[1])
        return result

    model.model.generate = listen

    def run(seed: int) -> work.Done:
        num_tokens.clear()
        model.transcribe(audio=(work.clip(), work.CLIP_RATE_HZ))
        done = work.Done(sum(num_tokens), work.CLIP_S)
        work.check_length(done, work.NUM_TOKENS)
        return done

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kind", choices=work.KINDS[2:], required=True)
    parser.add_argument("--dtype", required=True)
    given = parser.parse_args()
    from qwen_asr import Qwen3ASRModel

    model = Qwen3ASRModel.from_pretrained(
        str(given.folder),
        dtype=getattr(torch, given.dtype),
        device_map="cpu",
        max_new_tokens=work.NUM_TOKENS,
    )
    work.answer_orders(build_run(model), torch.set_num_threads)


if __name__ == "__main__":
    main()
