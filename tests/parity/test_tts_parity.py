"""The speech runner against the official package: the same codes in every mode, and its sound."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tts_sounds import make_reference

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.guards import LoopDetector, SilenceDetector
from qwen3_audio.engine.loading import SpeechModel, load_speech
from qwen3_audio.engine.local import hear_reference
from qwen3_audio.engine.speech_sound import SpeechSequence
from qwen3_audio.kernels.products import Kernels
from qwen3_audio.settings import Settings
from qwen3_audio.types import EndReason, Pcm, Sampling, SpeechRequest

GOLDEN = np.load(Path(__file__).with_name("golden_tts.npz"))
CASES: list[dict[str, Any]] = json.loads(str(GOLDEN["cases"]))
GREEDY = Sampling(temperature=0.0)
NUM_FRAMES = 40  # of the recording, where a case doesn't end by itself
FAMILIES = sorted({(case["width"], case["checkpoint"]) for case in CASES})
SETTINGS = Settings.from_env({"MAX_RUNNING": "5"})
IDS = itertools.count()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("torch", marks=pytest.mark.slow),
        pytest.param("kernels", marks=pytest.mark.compiler),
    ],
)
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    cache = tmp_path_factory.getbasetemp() / "kernels"
    kernels = Kernels(cache, 1) if request.param == "kernels" else None
    return Device(torch.device("cpu"), torch.float32, kernels)


@pytest.fixture(scope="module", params=FAMILIES, ids="/".join)
def family(
    request: pytest.FixtureRequest, device: Device, tiny_tts: Path, tiny_tts_same_width: Path
) -> tuple[SpeechModel, list[dict[str, Any]]]:
    """A loaded checkpoint and its cases."""
    width, name = request.param
    folder = {"tiny": tiny_tts, "tiny-same-width": tiny_tts_same_width}[width] / name
    model = load_speech(open_checkpoint(folder), SETTINGS, device, lambda *args: None)
    return model, [c for c in CASES if (c["width"], c["checkpoint"]) == request.param]


class Speech:
    """One case in flight: what the runner emits."""

    def __init__(self, model: SpeechModel, case: dict[str, Any]) -> None:
        self.case = case
        self.pieces: list[Pcm] = []
        self.frames: list[list[int]] = []
        request = request_of(model, case["request"])
        prompt = model.prompts.build(request, is_streaming_text=case["layout"] == "streamed")
        self.seq = SpeechSequence(
            seq_id=next(IDS),
            owner=1,
            num_prompt_tokens=len(prompt.rows),
            num_reserved_positions=len(prompt.rows) + NUM_FRAMES,
            emit=self.pieces.append,
            request=request,
            prompt=prompt,
            max_frames=NUM_FRAMES,
            loop=Watching(self.frames),
            silence=SilenceDetector(24_000, 1920),
        )

    @property
    def codes(self) -> NDArray[np.int16]:
        return np.array(self.frames, np.int16).reshape(-1, 16)


class Watching(LoopDetector):
    """Sees every frame as the detector does."""

    def __init__(self, frames: list[list[int]]) -> None:
        super().__init__(12.5)
        self.frames = frames

    def is_loop(self, frame: Any) -> bool:
        self.frames.append(frame)
        return super().is_loop(frame)


def request_of(model: SpeechModel, fields: dict[str, Any]) -> SpeechRequest:
    voice = None
    if "reference" in fields:
        reference = make_reference(fields["reference"])
        voice = hear_reference(model, reference, fields.get("reference_text"))
    names = ("speaker", "language", "instructions")
    return SpeechRequest(
        model.info.kind,
        fields["text"],
        seed=0,
        sampling=GREEDY,
        voice_prompt=voice,
        **{name: fields.get(name) for name in names},
    )


def run(model: SpeechModel, cases: list[dict[str, Any]]) -> list[Speech]:
    """All cases in one line: they join and leave as slots come free."""
    runner = model.runner
    speeches = [Speech(model, case) for case in cases]
    runner.scheduler.add([speech.seq for speech in speeches])
    while not runner.scheduler.is_idle:
        for ending in runner.step():
            assert ending.reason in (EndReason.STOP, EndReason.LENGTH)
            assert runner.scheduler.remove(ending.seq)
            runner.release(ending.seq)
    return speeches


def check(speech: Speech) -> None:
    case = speech.case
    np.testing.assert_array_equal(speech.codes, GOLDEN[case["codes"]], case["name"])
    if case["audio"]:
        sound = np.concatenate(speech.pieces)
        np.testing.assert_allclose(sound, GOLDEN[case["audio"]], atol=1e-5, err_msg=case["name"])


def test_every_mode_gives_the_official_codes_in_a_busy_batch(
    family: tuple[SpeechModel, list[dict[str, Any]]],
) -> None:
    model, cases = family
    for speech in run(model, cases):
        check(speech)


def test_every_mode_gives_the_official_codes_alone(
    family: tuple[SpeechModel, list[dict[str, Any]]],
) -> None:
    model, cases = family
    for case in cases:
        (speech,) = run(model, [case])
        check(speech)


def test_sampled_speech_is_the_same_alone_and_in_a_busy_batch(
    family: tuple[SpeechModel, list[dict[str, Any]]],
) -> None:
    model, cases = family
    sampled = [case for case in cases if case["layout"] == "whole"]

    def sample(chosen: list[dict[str, Any]]) -> list[NDArray[np.int16]]:
        speeches = [Speech(model, case) for case in chosen]
        for speech in speeches:
            seed = sampled.index(speech.case) + 7
            speech.seq.request = replace(speech.seq.request, seed=seed, sampling=Sampling())
        model.runner.scheduler.add([speech.seq for speech in speeches])
        while not model.runner.scheduler.is_idle:
            for ending in model.runner.step():
                model.runner.scheduler.remove(ending.seq)
                model.runner.release(ending.seq)
        return [speech.codes for speech in speeches]

    together = sample(sampled)
    for case, codes in zip(sampled, together, strict=True):
        np.testing.assert_array_equal(sample([case])[0], codes, case["name"])
