"""What this process may use: files of cgroups of both kinds, and the real affinity mask."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3_audio.machine import allowed_cores, available_memory_bytes, processor_features

NOWHERE = Path("/nowhere")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_a_process_bound_to_one_core_may_use_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from pathlib import Path; from qwen3_audio.machine import allowed_cores\n"
        "print(allowed_cores(Path('/nowhere')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) == 1


def test_a_quota_above_the_mask_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("99900000 100000\n")
    assert allowed_cores(tmp_path) == allowed_cores(NOWHERE)


def test_pages_of_files_count_as_free_memory(tmp_path: Path) -> None:
    """Else a container that has just downloaded its models would seem to be full."""
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4900\n")
    (tmp_path / "memory.stat").write_text("anon 900\nactive_file 1500\ninactive_file 2500\n")
    assert available_memory_bytes(NOWHERE, tmp_path) == 4100


def test_the_older_cgroups_limit_memory_too(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("9000\n")
    (folder / "memory.usage_in_bytes").write_text("8000\n")
    (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 700\n")
    assert available_memory_bytes(NOWHERE, tmp_path) == 1700


def test_no_limit_of_memory_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4900\n")
    assert available_memory_bytes(NOWHERE, tmp_path) is None


@pytest.mark.parametrize("key", ["flags", "Features"], ids=["x86", "ARM"])
def test_the_processors_features_are_read(tmp_path: Path, key: str) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\n{key}\t\t: fp avx2 asimd\n\nprocessor\t: 1\n")
    assert processor_features(cpu_info) == {"fp", "avx2", "asimd"}
    assert processor_features(NOWHERE) == frozenset()
