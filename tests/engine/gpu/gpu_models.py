"""Small checkpoints on the CPU's runners and on the GPU's, whose graphs a stand-in replays."""

from concurrent.futures import Executor
from pathlib import Path

import torch
from stand_in import CPU, StandInLane

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu.codec import RAMP
from qwen3_audio.engine.loading import SpeechModel, load_speech
from qwen3_audio.settings import Settings

NUM_SLOTS = 4


def as_plain() -> Device:
    return Device(CPU, torch.float32)


def as_graphs() -> Device:
    return Device(CPU, torch.float32, lanes=StandInLane)


def load_tts(folder: Path, device: Device, executor: Executor | None = None) -> SpeechModel:
    settings = Settings.from_env({"MAX_RUNNING": str(NUM_SLOTS)})
    checkpoint = open_checkpoint(folder)
    model = load_speech(checkpoint, settings, device, lambda *report: None, codec_threads=executor)
    model.runner.sound.ramp = RAMP  # so that both cut sound alike
    return model
