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
    """What this process may still take: the machine's and its cgroup's; None if neither says.

    Pages of files count as free, as they do in the machine's own figure: they are given up first.
    """
    figures = []
    words = _read_words(meminfo)
    if "MemAvailable:" in words:
        figures.append(int(words[words.index("MemAvailable:") + 1]) * 1024)
    for limit, used, folder, prefix in (
        ("memory.max", "memory.current", cgroup, ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", cgroup / "memory", "total_"),
    ):
        limits = (*_read_words(folder / limit), *_read_words(folder / used))
        if len(limits) == 2 and all(word.isdigit() for word in limits):
            of_files = _count_file_bytes(folder / "memory.stat", prefix)
            figures.append(max(0, int(limits[0]) - int(limits[1]) + of_files))
    return min(figures, default=None)


def _count_file_bytes(stat: Path, prefix: str) -> int:
    words = _read_words(stat)
    figures = dict(zip(words[::2], words[1::2], strict=False))
    return sum(int(figures.get(f"{prefix}{key}_file", 0)) for key in ("inactive", "active"))


def processor_features(cpu_info: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the processor says that it can, in its own words; nothing where it does not say."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(named, "").partition(":")[2].split())


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
