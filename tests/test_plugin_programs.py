"""Tests that need absent programs are left out with a line, or refused where all are wanted."""

from types import SimpleNamespace

import pytest

from tests import plugin_programs
from tests.plugin_programs import pytest_collection_modifyitems


class FakeItem:
    def __init__(self, *names: str) -> None:
        self.marks = [SimpleNamespace(name=name) for name in names]

    def iter_markers(self) -> list[SimpleNamespace]:
        return self.marks

    def get_closest_marker(self, name: str) -> SimpleNamespace | None:
        return next((mark for mark in self.marks if mark.name == name), None)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What it prints, on a machine with node and without PostgreSQL."""
    programs = {
        "postgres": (lambda: False, "the PostgreSQL server"),
        "node": (lambda: True, "node and npm"),
    }
    monkeypatch.setattr(plugin_programs, "PROGRAMS", programs)
    monkeypatch.delenv("REQUIRE_ALL", raising=False)
    return []


def modify(items: list[FakeItem], lines: list[str]) -> list[FakeItem]:
    left_out: list[FakeItem] = []
    config = SimpleNamespace(
        hook=SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items)),
        pluginmanager=SimpleNamespace(
            get_plugin=lambda _: SimpleNamespace(write_line=lines.append)
        ),
    )
    pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    return left_out


def test_what_an_absent_program_serves_is_left_out_with_one_line(lines: list[str]) -> None:
    needs_database, needs_node, plain = FakeItem("postgres"), FakeItem("node"), FakeItem()
    items = [needs_database, needs_node, plain]
    assert modify(items, lines) == [needs_database]
    assert items == [needs_node, plain]
    assert lines == ["Left out: 1 tests need the PostgreSQL server, which this machine lacks"]


def test_nothing_is_said_where_nothing_is_missing(lines: list[str]) -> None:
    items = [FakeItem("node"), FakeItem()]
    assert modify(items, lines) == []
    assert lines == []


def test_ci_refuses_to_leave_anything_out(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUIRE_ALL", "1")
    with pytest.raises(pytest.UsageError, match="REQUIRE_ALL=1 wants all"):
        modify([FakeItem("postgres")], lines)
