"""The official packages on the same weights, where they can be imported: one stream."""

import importlib.util
import statistics
from typing import Any

import torch

from benchmarks import work
from benchmarks.gpu_check import checkpoints
from benchmarks.gpu_check.attempts import attempt
from benchmarks.gpu_check.part import Part

NUM_RUNS = 3


def run(part: Part, size: str) -> None:
    if importlib.util.find_spec("qwen_tts") is None:
        part.note("qwen-tts is not installed here, so nothing is compared with it")
    else:
        part.note("the official packages run without attention by cuDNN, as the engine does")
        with attempt(part, "qwen-tts"):
            _speak(part, size)
    if importlib.util.find_spec("qwen_asr") is None:
        part.note("qwen-asr is not installed here, so nothing is compared with it")
    elif part.has_time(30.0, "qwen-asr"):
        with attempt(part, "qwen-asr"):
            _listen(part, size)


def _speak(part: Part, size: str) -> None:
    from benchmarks.peers.official_loading import replace_torchaudio
    from benchmarks.peers.official_tts import build_run

    if importlib.util.find_spec("torchaudio") is None:
        replace_torchaudio()
    from qwen_tts import Qwen3TTSModel

    folder = checkpoints.make(part, "custom_voice", size).folder
    options: dict[str, Any] = {"device_map": part.device, "dtype": torch.bfloat16}
    model = Qwen3TTSModel.from_pretrained(str(folder), **options)
    _measure(part, f"qwen-tts {size}", build_run(model, "custom_voice"))


def _listen(part: Part, size: str) -> None:
    from qwen_asr import Qwen3ASRModel

    from benchmarks.peers.official_asr import build_run

    folder = checkpoints.make(part, "asr", size).folder
    options: dict[str, Any] = {"device_map": part.device, "dtype": torch.bfloat16}
    model = Qwen3ASRModel.from_pretrained(str(folder), max_new_tokens=work.NUM_TOKENS, **options)
    _measure(part, f"qwen-asr {size}", build_run(model))


def _measure(part: Part, name: str, speak: Any) -> None:
    work.timed(speak, 0)
    rows = []
    for seed in range(1, NUM_RUNS + 1):
        if part.has_time(5.0, f"run {seed} of {name}"):
            rows.append(work.timed(speak, seed))
    if rows:
        rtfs = [row["wall_s"] / row["audio_s"] for row in rows]
        part.put(name, {"rtf": round(statistics.median(rtfs), 4), "runs": len(rows)})
