"""Leaves out tests that need programs this machine lacks, and says so; with REQUIRE_ALL=1 it fails.

`pytest` after a clone must pass everywhere; CI sets REQUIRE_ALL=1, so that nothing is left out
there without anyone noticing.
"""

import ctypes.util
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def has_postgres() -> bool:
    """Debian keeps the server's programs outside of PATH."""
    return bool(shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb")))


def has_node() -> bool:
    return bool(shutil.which("node") and shutil.which("npm"))


def has_espeak() -> bool:
    return ctypes.util.find_library("espeak-ng") is not None


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("cc", "gcc", "clang"))


PROGRAMS: dict[str, tuple[Callable[[], bool], str]] = {
    "postgres": (has_postgres, "the PostgreSQL server"),
    "node": (has_node, "node and npm"),
    "clients": (has_node, "node and npm"),
    "espeak": (has_espeak, "espeak-ng"),
    "curl": (lambda: shutil.which("curl") is not None, "curl"),
    "file": (lambda: shutil.which("file") is not None, "file"),
    "unzip": (lambda: shutil.which("unzip") is not None, "unzip"),
    "compiler": (has_compiler, "a C compiler"),
    "numba": (lambda: importlib.util.find_spec("numba") is not None, "the package numba"),
    "triton": (lambda: importlib.util.find_spec("triton") is not None, "the package triton"),
    "uv": (lambda: shutil.which("uv") is not None, "uv"),
}


def pytest_configure(config: pytest.Config) -> None:
    for marker in ("compiler", "curl", "espeak", "file", "numba", "triton", "unzip", "uv"):
        config.addinivalue_line("markers", f"{marker}: runs the program {marker}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = {marker for marker, (is_there, _) in PROGRAMS.items() if not is_there()}
    left_out = [item for item in items if absent & {mark.name for mark in item.iter_markers()}]
    if not left_out:
        return
    names = sorted({PROGRAMS[marker][1] for marker in absent if _has(left_out, marker)})
    text = f"{len(left_out)} tests need {' and '.join(names)}"
    if os.environ.get("REQUIRE_ALL") == "1":
        raise pytest.UsageError(f"{text}, which this machine lacks, and REQUIRE_ALL=1 wants all")
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.write_line(f"Left out: {text}, which this machine lacks")


def _has(items: list[pytest.Item], marker: str) -> bool:
    return any(item.get_closest_marker(marker) for item in items)
