"""How much of this machine the process may use: cores and memory, cgroups considered."""

import os
from pathlib import Path


def allowed_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """How many cores this process may keep busy: its affinity mask and its cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    words = _read_words(cgroup / "cpu.max") or (
        *_read_words(cgroup / "cpu/cpu.cfs_quota_us"),
        *_read_words(cgroup / "cpu/cpu.cfs_period_us"),
    )
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
        cores = min(cores, int(words[0]) / int(words[1]))
    return cores


def available_memory_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """What this process may still take: the machine's and its cgroup's; None if neither says."""
    figures = []
    words = _read_words(meminfo)
    if "MemAvailable:" in words:
        figures.append(int(words[words.index("MemAvailable:") + 1]) * 1024)
    limits = (*_read_words(cgroup / "memory.max"), *_read_words(cgroup / "memory.current"))
    if len(limits) == 2 and all(word.isdigit() for word in limits):
        figures.append(max(0, int(limits[0]) - int(limits[1])))
    return min(figures, default=None)


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
