"""Memory of a process on Linux; elsewhere nobody says."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

_PEAK_OF_TORCH = "import torch; print(open('/proc/self/status').read())"


def peak_memory_bytes(pid: int | None = None) -> int | None:
    """The most that was ever resident at once (VmHWM), of this process or another one."""
    return _read_bytes(f"/proc/{pid or os.getpid()}/status")


def measure_bare_torch() -> tuple[float, int | None]:
    """(seconds, peak bytes) of a Python that imports torch and nothing else."""
    begin_s = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, "-c", _PEAK_OF_TORCH], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - begin_s, _find_bytes(answer.stdout)


def _read_bytes(path: str) -> int | None:
    try:
        return _find_bytes(Path(path).read_text(encoding="ascii"))
    except OSError:
        return None


def _find_bytes(status: str) -> int | None:
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return None if match is None else 1024 * int(match[1])
