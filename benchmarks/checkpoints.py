"""Random checkpoints made on the spot: those of `qwen3-audio bench`, and some that are slow."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from qwen3_audio.bench.random_checkpoints import NEVER_ENDS, SIZES, write_checkpoints
from qwen3_audio.random_weights.asr import write_asr_checkpoint
from qwen3_audio.random_weights.asr_configs import ASR_PRESETS, DecoderSize
from qwen3_audio.random_weights.tensors import TensorPlan, write_json, write_tensors
from qwen3_audio.random_weights.tts import write_tts_checkpoint
from qwen3_audio.random_weights.tts_tensors import plan_talker

__all__ = ["SIZES", "write_checkpoints", "write_slow_recognition", "write_slow_speech"]

SLOW_SIZE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 32,
}
SLOW_LAYERS = {"talker": 8, "predictor": 5}
SLOW_DECODER = DecoderSize(
    num_layers=12, hidden=1024, num_heads=16, num_kv_heads=8, head_dim=64, inner=4096
)


def write_slow_speech(folder: Path) -> None:
    """A tiny voice whose frame takes tens of milliseconds on a CPU, as a real one's does."""
    write_tts_checkpoint(folder, "custom_voice", eos_scale=NEVER_ENDS)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    talker = config["talker_config"]
    predictor = talker["code_predictor_config"]
    talker |= SLOW_SIZE | {"num_hidden_layers": SLOW_LAYERS["talker"]}
    predictor |= SLOW_SIZE | {"num_hidden_layers": SLOW_LAYERS["predictor"]}
    predictor["layer_types"] = ["full_attention"] * SLOW_LAYERS["predictor"]
    write_json(folder / "config.json", config)
    plan = TensorPlan()
    plan_talker(plan, talker, eos_scale=NEVER_ENDS)
    write_tensors(folder, plan, seed=0, dtype=torch.bfloat16)


def write_slow_recognition(folder: Path) -> None:
    """The same for listening: a token takes some ten milliseconds."""
    ASR_PRESETS["slow-asr"] = replace(ASR_PRESETS["tiny-asr"], decoder=SLOW_DECODER)
    write_asr_checkpoint(folder, preset="slow-asr", dtype="bfloat16")
