"""Stages, budgets, saved states and curves of a training run."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from training import run
from training.run import (
    ActiveTime,
    Progress,
    draw_curves,
    load_state,
    plain_failures,
    run_stage,
    save_state,
    write_text,
)

pytestmark = pytest.mark.slow  # of the training, not of the product


class Clock:
    """A wall clock and the time that the thread has computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self.computed_s = 100.0, 7.0
        monkeypatch.setattr(run.time, "monotonic", lambda: self.wall_s)
        monkeypatch.setattr(run.time, "thread_time", lambda: self.computed_s)

    def go_on(self, wall_s: float, computed_s: float | None = None) -> None:
        self.wall_s += wall_s
        self.computed_s += wall_s if computed_s is None else computed_s


def test_a_pause_counts_as_one_long_step_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    active = ActiveTime(10.0)
    for seconds in (1.0, 3600.0, 0.5):
        clock.go_on(seconds)
        active.tick()
    assert active.used_s == 1.0 + run.MAX_STEP_S + 0.5
    assert not active.is_over


def test_waiting_for_a_busy_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    active = ActiveTime(10.0)
    clock.go_on(2.0, computed_s=0.5)
    active.tick()
    assert active.used_s == 0.5


def test_what_happens_before_a_restart_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    active = ActiveTime(4.0, used_s=1.0)
    clock.go_on(2.0)
    active.restart()
    clock.go_on(1.0)
    active.tick()
    assert active.share == 0.5


def test_the_budget_ends_and_no_budget_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    active = ActiveTime(2.0)
    clock.go_on(2.5)
    active.tick()
    assert active.is_over and active.share == 1.0
    assert ActiveTime(0.0).is_over


def test_a_stage_runs_once_and_remembers_its_result(tmp_path: Path) -> None:
    runs = []

    def stage() -> dict[str, int]:
        runs.append(1)
        return {"clips": 3}

    first = run_stage(tmp_path, "data", stage)
    assert run_stage(tmp_path, "data", stage) == first
    assert first["clips"] == 3 and len(runs) == 1


def test_a_stage_that_failed_runs_again(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        run_stage(tmp_path, "data", fail)
    assert run_stage(tmp_path, "data", lambda: {"ok": 1})["ok"] == 1


def test_a_state_torn_while_writing_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "state.pt"
    assert load_state(path) is None
    save_state(path, {"weights": torch.arange(3), "used_s": 1.5})

    def tear(_: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run.torch, "save", tear)
    with pytest.raises(OSError):
        save_state(path, {})
    state = load_state(path)
    assert state is not None and state["used_s"] == 1.5
    assert torch.equal(state["weights"], torch.arange(3))


def test_reports_are_lines_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(tmp_path / "log.jsonl")
    assert progress.rows() == []
    progress.report(step=100, text=0.123456)
    assert capsys.readouterr().out == "step 100  text 0.1235\n"
    assert progress.rows() == [{"step": 100, "text": 0.123456}]


def test_curves_become_a_picture_even_where_rows_lack_a_column(tmp_path: Path) -> None:
    rows = [{"minutes": 1.0, "text": 2.0}, {"minutes": 2.0, "text": 0.0, "wer": 0.5}]
    picture = tmp_path / "curves" / "asr.png"
    draw_curves(rows, picture, x="minutes", columns=[["text"], ["wer"]])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_text_is_written_as_a_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.json", json.dumps([1]))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_a_full_disk_is_one_sentence() -> None:
    with pytest.raises(SystemExit) as ended, plain_failures():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/state.pt.tmp")
    assert str(ended.value).startswith("The disk is full: /somewhere/state.pt.tmp.")


def test_expected_failures_are_one_sentence_and_others_are_not_hidden() -> None:
    with pytest.raises(SystemExit, match="no such voice"), plain_failures(KeyError, ValueError):
        raise ValueError("no such voice")
    with pytest.raises(PermissionError), plain_failures(ValueError):
        raise PermissionError(errno.EACCES, "denied")
