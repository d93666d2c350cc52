"""Small checkpoints on the CPU's runners and on the GPU's, whose graphs a stand-in replays."""

from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import torch
from stand_in import CPU, StandInLane

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.loading import SpeechModel, load_speech
from qwen3_audio.settings import Settings
from qwen3_audio.types import Sampling, VoicePrompt

NUM_SLOTS = 4
GREEDY = Sampling(temperature=0.0)


def as_plain() -> Device:
    return Device(CPU, torch.float32)


def as_graphs() -> Device:
    return Device(CPU, torch.float32, lanes=StandInLane)


def load_tts(folder: Path, device: Device, executor: Executor | None = None) -> SpeechModel:
    settings = Settings.from_env({"MAX_RUNNING": str(NUM_SLOTS)})
    checkpoint = open_checkpoint(folder)
    return load_speech(checkpoint, settings, device, lambda *report: None, codec_threads=executor)


def draw_voice(model: SpeechModel, num_frames: int | None, seed: int = 0) -> VoicePrompt:
    """A reference that nobody said; without frames its vector only."""
    random = np.random.default_rng(seed)
    config = model.runner.talker.config
    vector = random.standard_normal(config.stack.hidden_size).astype(np.float32)
    if num_frames is None:
        return VoicePrompt(vector)
    shape = (num_frames, config.num_code_groups)
    codes = random.integers(0, config.codebook_size, shape, np.int16)
    return VoicePrompt(vector, codes, "in the end")
