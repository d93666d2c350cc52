"""Long work shows how far it has come: a bar for people, a few lines for logs."""

import io
import sys

import pytest

from qwen3_audio.progress import byte_progress, counting_progress, loading_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    return []


def test_a_log_gets_a_line_for_every_tenth(lines: list[str]) -> None:
    with byte_progress("x/y", 1000, lines.append) as advance:
        for _ in range(100):
            advance(10)
    assert lines[0] == "Downloading x/y: 0.0 MB"
    assert lines[1:] == [f"x/y: {percent} %" for percent in range(10, 101, 10)]


def test_lost_bytes_are_taken_back(lines: list[str]) -> None:
    with byte_progress("x/y", 100, lines.append) as advance:
        for step in (50, -50, 50, 50):
            advance(step)
    assert lines[1:] == ["x/y: 50 %", "x/y: 100 %"]


def test_nothing_to_fetch_is_no_division_by_zero(lines: list[str]) -> None:
    with byte_progress("x/y", 0, lines.append) as advance:
        advance(0)
    assert len(lines) == 1


def test_a_log_gets_a_line_for_every_checkpoint(lines: list[str]) -> None:
    with loading_progress(lines.append) as show:
        for what in ("a", "b"):
            for done in range(1, 31):
                show(what, done, 30)
    assert lines == ["Loading a: 30 tensors", "Loading b: 30 tensors"]


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, lines = Terminal(), list[str]()
    monkeypatch.setattr(sys, "stderr", terminal)
    with byte_progress("x/y", 100, lines.append) as advance:
        advance(100)
    with loading_progress(lines.append) as show:
        show("a", 1, 2)
        show("a", 2, 2)
        show("b", 1, 1)
    assert lines == []
    assert "x/y: 100%" in terminal.getvalue()
    assert "b: 100%" in terminal.getvalue()


def test_counted_work_shows_every_quarter_and_the_end(lines: list[str]) -> None:
    with counting_progress("8 at once", 40, lines.append) as advance:
        for _ in range(40):
            advance()
    assert lines == [f"8 at once: {number} of 40" for number in (10, 20, 30)] + [
        "8 at once: 40 done"
    ]


def test_work_of_unknown_length_has_one_line(lines: list[str]) -> None:
    with counting_progress("8 at once", None, lines.append) as advance:
        advance()
        advance()
    assert lines == ["8 at once: 2 done"]


def test_counted_work_has_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, lines = Terminal(), list[str]()
    monkeypatch.setattr(sys, "stderr", terminal)
    with counting_progress("8 at once", 3, lines.append) as advance:
        advance()
    assert "8 at once" in terminal.getvalue()
    assert lines == []
