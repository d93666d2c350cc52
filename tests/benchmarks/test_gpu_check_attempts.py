"""What fails inside a part of the GPU's check, and what it makes of small differences."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu_check import attempts, driving, kernel_trials, kernels, tiny
from benchmarks.gpu_check.attempts import attempt
from benchmarks.gpu_check.part import Part
from benchmarks.gpu_check.schedule import read_report
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu.errors import FINAL
from qwen3_audio.engine.gpu.graphs import CudaLane
from qwen3_audio.engine.kv_cache import PageBook
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.shapes import LayerCache, Places


def part_of(name: str, home: Path) -> Part:
    return Part(name, "cpu", home, home / "report.lines", time.monotonic() + 120, is_quick=True)


def test_a_check_that_raises_is_told_with_its_traceback_and_the_part_goes_on(
    tmp_path: Path,
) -> None:
    part = part_of("tiny", tmp_path)
    with attempt(part, "first"):
        try:
            [].index(0)
        except ValueError as error:
            raise RuntimeError("no plan\nof many lines") from error
    with attempt(part, "second"):
        part.check("second", True)
    checks = read_report(part.report)["checks"]
    assert [check["ok"] for check in checks.values()] == [False, True]
    assert checks["first"]["detail"].startswith(
        "RuntimeError: no plan (test_gpu_check_attempts.py:"
    )
    lines = checks["first"]["traceback"]
    assert lines[1].startswith("tests/benchmarks/test_gpu_check_attempts.py:")
    assert "of many lines" in lines
    assert any(line.startswith("caused by ValueError: ") for line in lines)


def test_a_card_that_has_stopped_ends_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "diagnose", lambda error, probe: FINAL)
    part = part_of("tiny", tmp_path)
    with pytest.raises(RuntimeError, match="illegal"), attempt(part, "first"):
        raise RuntimeError("CUDA error: an illegal memory access")
    assert not part.report.exists()


def test_a_model_that_does_not_load_with_graphs_is_loaded_without(tmp_path: Path) -> None:
    def load(device: Device) -> str:
        if device.lanes is not None:
            raise StartError("The GPU failed while the steps were prepared")
        return "plain"

    part = part_of("speech-tiny", tmp_path)
    card = replace(driving.plain_cpu(), lanes=driving.Lanes(StandIn))
    model, device = driving.load_somehow(part, load, card)
    assert (model, device.lanes) == ("plain", None)
    report = read_report(part.report)
    assert report["checks"]["loading with graphs"]["ok"] is False
    assert report["notes"] == [
        "the model does not load with graphs: what follows is measured without them"
    ]


class StandIn(CudaLane):
    """A lane without a card, of which one step could not be captured."""

    num_plain = 1  # type: ignore[assignment]

    def __init__(self) -> None: ...


def test_steps_that_are_no_graphs_are_a_check_that_fails(tmp_path: Path) -> None:
    part = part_of("speech-tiny", tmp_path)
    lanes = driving.Lanes(StandIn)
    for _ in range(2):
        lanes()
    driving.check_graphs(part, replace(driving.plain_cpu(), lanes=lanes))
    assert read_report(part.report)["checks"] == {
        "every step is a graph": {"ok": False, "detail": "2 could not be captured"}
    }


def test_after_a_step_that_fails_the_runner_is_empty() -> None:
    class Broken:
        scheduler: Scheduler[Any] = Scheduler(
            num_slots=1, max_prefill_tokens=9, max_waiting=9, memory=PageBook(9)
        )
        has_work = True
        released: ClassVar[list[int]] = []

        def connect(self, wake: object) -> None: ...

        def step(self) -> None:
            self.scheduler.plan()
            raise RuntimeError("no plan")

        def release(self, seq: Any) -> None:
            self.released.append(seq.seq_id)

        def restart(self) -> None:
            self.released.append(-1)

    runner: Any = Broken()
    with pytest.raises(RuntimeError, match="no plan"):
        driving.Turns(runner).run([Work(1), Work(2)])  # type: ignore[list-item]
    assert runner.scheduler.is_idle
    assert runner.released == [1, -1]


class Work:
    """As much of a request as a scheduler wants."""

    begin_s = 0.0

    def __init__(self, number: int) -> None:
        self.seq = Sequence(
            seq_id=number, owner=1, num_prompt_tokens=1, num_reserved_positions=1, emit=print
        )


STEPS = np.arange(12).reshape(4, 3)


def other(step: int, group: int) -> NDArray[np.int64]:
    codes = STEPS.copy()
    codes[step, group] = -1
    return codes


@pytest.mark.parametrize(
    ("codes", "place"),
    [(STEPS, None), (other(2, 1), (2, 1)), (STEPS[:3], (3,)), (None, (0,)), (STEPS[:, 0], None)],
)
def test_the_first_difference_is_found(
    codes: NDArray[np.int64] | None, place: tuple[int, ...] | None
) -> None:
    expected = STEPS if codes is None or codes.ndim == 2 else codes
    assert tiny.find_difference(codes, expected) == place


@pytest.mark.parametrize(
    ("ours", "is_right"),
    [
        ([STEPS, STEPS], True),
        ([STEPS, other(3, 2)], True),
        ([STEPS, other(0, 2)], False),
        ([other(3, 2), other(3, 2)], False),
    ],
    ids=["equal", "a near tie", "from the first step on", "both"],
)
def test_one_request_may_differ_but_not_from_its_first_step_on(
    ours: list[NDArray[np.int64]], is_right: bool, tmp_path: Path
) -> None:
    part = part_of("tiny", tmp_path)
    tiny.check_equal(part, "codes", [(codes, STEPS) for codes in ours])
    assert read_report(part.report)["checks"]["codes"]["ok"] is is_right


def test_a_kernel_that_is_wrong_or_cannot_run_hides_no_other(tmp_path: Path) -> None:
    class Broken(FusedOps):
        max_few_rows = 2

        def silu_mul(self, gate_up: Tensor) -> Tensor:
            raise RuntimeError("no such instruction")

        def attend(self, q: Tensor, cache: LayerCache, places: Places) -> Tensor:
            return super().attend(q, cache, places) * 1.5

    part = part_of("kernels", tmp_path)
    kernel_trials.try_kernels(part, Broken(), kernels.Clock(part), 3)
    checks = read_report(part.report)["checks"]
    wrong = {name: check["detail"] for name, check in checks.items() if not check["ok"]}
    assert list(wrong) == ["SiLU, 3 rows", "attention, 3 rows"]
    assert wrong["SiLU, 3 rows"].startswith("RuntimeError: no such instruction (")
    assert wrong["attention, 3 rows"].startswith("apart by 5.0e-01; ")
    assert len(checks) > 15
