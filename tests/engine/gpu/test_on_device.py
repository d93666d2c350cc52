"""Every operation of a GPU's step happens on the device: shown with one that has only shapes."""

from pathlib import Path

import pytest
import torch
from listening_runs import draw_sound, hearing_of
from meta_lane import META, MetaLane
from speech_runs import request_of, speech_of

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu.listening import GpuAsrRunner
from qwen3_audio.engine.gpu.speech import GpuSpeechRunner
from qwen3_audio.engine.loading import load_listening, load_speech
from qwen3_audio.settings import Settings

pytestmark = pytest.mark.slow  # such a device imports torch's compiler

SETTINGS = Settings.from_env({"MAX_RUNNING": "2"})


def test_a_speech_step_needs_nothing_of_the_host(tiny_tts: Path) -> None:
    checkpoint = open_checkpoint(tiny_tts / "tiny-CustomVoice")
    device = Device(META, torch.bfloat16, lanes=MetaLane)
    model = load_speech(checkpoint, SETTINGS, device, lambda *report: None)
    assert isinstance(model.runner, GpuSpeechRunner)
    speech = speech_of(model, request_of(), max_frames=5)
    model.runner.scheduler.add([speech.seq])
    for _ in range(4):
        model.runner.step()
    assert len(speech.frames) == 3
    assert [len(piece) for piece in speech.pieces] == [3840]


def test_a_listening_step_needs_nothing_of_the_host(tiny_asr: Path) -> None:
    checkpoint = open_checkpoint(tiny_asr / "tiny-asr")
    device = Device(META, torch.bfloat16, lanes=MetaLane)
    model = load_listening(checkpoint, SETTINGS, device, lambda *report: None)
    assert isinstance(model.runner, GpuAsrRunner)
    hearing = hearing_of(model, draw_sound(9.0), max_tokens=5)
    model.runner.scheduler.add([hearing.seq])
    for _ in range(4):
        assert model.runner.step() == []
    assert len(hearing.seq.token_ids) == 3
