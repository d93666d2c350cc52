"""The recognition runner gives the official tokens, alone and in a busy batch."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asr_clips import RATE_HZ, read_clip

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.asr import AsrSequence
from qwen3_audio.engine.asr_prompt import build_prompt
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.loading import ListeningModel, load_listening
from qwen3_audio.models.asr import num_audio_tokens
from qwen3_audio.settings import Settings
from qwen3_audio.types import TranscriptionRequest

GOLDEN = np.load(Path(__file__).parent / "golden_asr.npz")
CASES: dict[str, Any] = json.loads(str(GOLDEN["cases"]))["tokens"]


@pytest.fixture(scope="module")
def model(tiny_asr: Path) -> ListeningModel:
    """Fewer slots than cases, so that requests join while others are under way."""
    settings = Settings(qwen_tts_device="cpu", qwen_tts_dtype="float32", max_running=6)
    checkpoint = open_checkpoint(tiny_asr / "tiny-asr")
    return load_listening(checkpoint, settings, Device.choose(settings), lambda *_: None)


def official_tokens(model: ListeningModel, name: str) -> list[int]:
    """The package does not know this checkpoint's end ids, so it goes on behind them."""
    tokens = GOLDEN[f"tokens/{CASES[name]['number']}"].tolist()
    return list(itertools.takewhile(lambda token: token not in model.runner.eos_ids, tokens))


def sequence_of(model: ListeningModel, name: str, seq_id: int) -> AsrSequence:
    case = CASES[name]
    samples = read_clip(case["clip"])
    prompt = build_prompt(
        model.tokenizer,
        num_audio_tokens(len(samples) * 100 // RATE_HZ),
        context=case["context"],
        language=case["language"],
    )
    num_tokens = len(GOLDEN[f"tokens/{case['number']}"])
    return AsrSequence(
        seq_id=seq_id,
        owner=1,
        num_prompt_tokens=len(prompt.ids),
        num_reserved_positions=len(prompt.ids) + num_tokens,
        emit=lambda _: None,
        request=TranscriptionRequest(samples, context=case["context"]),
        index=seq_id,
        samples=samples,
        language=case["language"],
        max_tokens=num_tokens,
        settings=(0.0, 0, 1.0),
    )


def run_all(model: ListeningModel, names: list[str]) -> dict[str, list[int]]:
    runner = model.runner
    runner.scheduler.add([sequence_of(model, name, at) for at, name in enumerate(names)])
    tokens: dict[str, list[int]] = {}
    while not runner.scheduler.is_idle:
        for ending in runner.step():
            runner.scheduler.remove(ending.seq)
            runner.release(ending.seq)
            tokens[names[ending.seq.seq_id]] = ending.seq.token_ids
    return tokens


@pytest.mark.parametrize("name", CASES)
def test_a_clip_alone_gets_the_official_tokens(model: ListeningModel, name: str) -> None:
    assert run_all(model, [name]) == {name: official_tokens(model, name)}


def test_all_clips_at_once_get_the_official_tokens(model: ListeningModel) -> None:
    names = list(CASES)
    assert run_all(model, names) == {name: official_tokens(model, name) for name in names}
