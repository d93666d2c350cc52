"""Our side of the comparison with the official packages, and what counts as the same."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_audio.types import ModelKind
from training.measure.official import (
    _listening_row,
    _speech_row,
    end_ids,
    measure_official_listening,
    measure_official_speech,
    run_official,
    until_end,
)
from training.measure.ours import Heard, SpokenCodes, listen_ourselves, speak_ourselves
from training.measure.plan import Plan

pytestmark = pytest.mark.slow  # of the training, not of the product

GOLDEN = np.load(Path(__file__).parents[2] / "parity" / "golden_tts.npz")
CASES: list[dict[str, Any]] = json.loads(str(GOLDEN["cases"]))


def test_our_codes_are_those_that_the_official_package_has_recorded(tiny_tts: Path) -> None:
    cases = [
        case
        for case in CASES
        if case["width"] == "tiny"
        and case["checkpoint"] == "tiny-CustomVoice"
        and case["layout"] == "whole"
    ][:3]
    ours = speak_ourselves(tiny_tts / "tiny-CustomVoice", [case["request"] for case in cases], 40)
    for case, spoken in zip(cases, ours, strict=True):
        np.testing.assert_array_equal(spoken.codes, GOLDEN[case["codes"]], case["name"])
        assert len(spoken.samples) == 1920 * len(spoken.codes)


def test_our_tokens_make_up_our_text(tiny_asr: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 16_000).astype(np.float32)
    [heard] = listen_ourselves(tiny_asr / "tiny-asr", [noise])
    assert heard.tokens and not end_ids(tiny_asr / "tiny-asr") & {*heard.tokens}


def test_one_code_that_differs_is_a_difference() -> None:
    codes, samples = np.zeros((3, 16), np.int16), np.zeros(5760, np.float32)
    ours = SpokenCodes(codes, samples)
    theirs = {"codes 0": codes.copy(), "samples 0": samples + np.float32(0.25)}
    row = _speech_row(ModelKind.CUSTOM_VOICE, {"text": "Hi."}, ours, theirs, 0)
    assert row["same"] and row["sound_apart"] == 0.25
    theirs["codes 0"][2, 15] = 1
    assert not _speech_row(ModelKind.CUSTOM_VOICE, {"text": "Hi."}, ours, theirs, 0)["same"]
    theirs["codes 0"] = codes[:2]
    assert not _speech_row(ModelKind.CUSTOM_VOICE, {"text": "Hi."}, ours, theirs, 0)["same"]


def test_tokens_language_and_text_must_all_be_the_same() -> None:
    ours = Heard("English", "Yes.", [5, 6])
    assert _listening_row("Yes.", ours, [5, 6], ["English", "Yes."])["same"]
    for tokens, said in (([5, 7], ["English", "Yes."]), ([5, 6], ["", "Yes."])):
        row = _listening_row("Yes.", ours, tokens, said)
        assert not row["same"] and row["official"] == said


def test_what_comes_behind_the_end_does_not_count() -> None:
    assert until_end([4, 5, 9, 6], frozenset({9})) == [4, 5]
    assert until_end([4, 5], frozenset({9})) == [4, 5]


def test_without_the_package_s_python_nothing_is_compared(tmp_path: Path) -> None:
    assert measure_official_speech(Plan({}, tmp_path)) is None
    assert measure_official_listening(Plan({}, tmp_path)) is None


def test_a_python_without_the_package_is_told_in_its_own_words() -> None:
    with pytest.raises(RuntimeError, match=r"The official package failed: .*qwen_asr"):
        run_official(Path(sys.executable), "official_listening", {"checkpoint": "none"}, [])
