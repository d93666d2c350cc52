"""Cache folders for tests that choose a device: nothing is compiled twice in one session."""

from pathlib import Path


def link(folder: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.is_symlink():
        folder.symlink_to(target)


def home_with_kernels(base: Path) -> Path:
    """A HOME; what tests/kernels compile below `base` is found there."""
    for name in ("kernels", "numba"):
        link(base / "home" / ".cache" / "qwen3-audio" / name, base / name)
    return base / "home"


def cache_with_numba_alone(base: Path) -> Path:
    """An XDG_CACHE_HOME in which no kernels have ever been compiled."""
    link(base / "bare" / "qwen3-audio" / "numba", base / "numba")
    return base / "bare"
