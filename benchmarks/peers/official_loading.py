"""Imports and loads the official speech package; runs in its environment."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


def replace_torchaudio() -> None:
    """The package imports it for another codec; the published wheel needs CUDA's libraries."""
    for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
        module: Any = ModuleType(name)
        module.__path__, module.__version__ = [], "0"
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def load_speech_model(folder: Path, dtype: str) -> Any:
    replace_torchaudio()
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel.from_pretrained(str(folder), device_map="cpu", dtype=getattr(torch, dtype))
