"""How far long work has come: a bar on a terminal, a few lines in a log."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[str], None]
NUM_LINES = 10
NUM_COUNT_LINES = 4


@contextmanager
def byte_progress(what: str, total_bytes: int, report: Report) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with every number of bytes that arrived, or (negative) was lost."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total_bytes, desc=what, unit="B", unit_scale=True) as bar:
            yield bar.update
        return
    report(f"Downloading {what}: {total_bytes / 1e6:,.1f} MB")
    done_bytes, num_shown = 0, 0

    def advance(num_bytes: int) -> None:
        nonlocal done_bytes, num_shown
        done_bytes += num_bytes
        reached = NUM_LINES * done_bytes // max(total_bytes, 1)
        if reached > num_shown:
            num_shown = reached
            report(f"{what}: {100 * reached // NUM_LINES} %")

    yield advance


@contextmanager
def counting_progress(what: str, total: int | None, report: Report) -> Iterator[Callable[[], None]]:
    """Gives a function to call, from any thread, when one more is done; None: nobody knows of how
    many, and a log has one line at the end."""
    lock, num_done, num_shown = threading.Lock(), 0, 0
    bar: Any = None
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(total=total, desc=what, leave=False)

    def advance() -> None:
        nonlocal num_done, num_shown
        with lock:
            num_done += 1
            if bar is not None:
                bar.update(1)
                return
            reached = NUM_COUNT_LINES * num_done // max(total or 0, 1)
            if total is not None and num_shown < reached < NUM_COUNT_LINES:
                num_shown = reached
                report(f"{what}: {num_done} of {total}")

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()
        else:
            report(f"{what}: {num_done} done")


@contextmanager
def loading_progress(report: Report) -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function to call with (checkpoint, tensors read, tensors in all) as they are read."""
    if not sys.stderr.isatty():
        yield (
            lambda what, done, total: (
                report(f"Loading {what}: {total} tensors") if done == 1 else None
            )
        )
        return
    from tqdm import tqdm

    bar = tqdm(unit="tensor")

    def show(what: str, done: int, total: int) -> None:
        if bar.desc != f"{what}: " or done == 1:
            bar.reset(total=total)
            bar.set_description(what, refresh=False)
        bar.update(done - bar.n)

    with bar:
        yield show
