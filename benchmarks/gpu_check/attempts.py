"""Blocks of a part that may fail by themselves: told with their traceback, and the part goes on."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from benchmarks.gpu_check.part import Part
from qwen3_audio.engine.gpu.errors import diagnose, probe_gpu


@contextmanager
def attempt(part: Part, name: str) -> Iterator[None]:
    """What is raised is a check of this name that failed; a GPU that has stopped ends the part."""
    has_failed = False
    try:
        yield
    except Exception as error:  # whatever it is, it is this check's result, and the others go on
        if has_stopped(part, error):
            raise
        part.crash(name, error)
        has_failed = True
    if has_failed:
        gc.collect()
        if part.is_gpu:
            torch.cuda.empty_cache()


def has_stopped(part: Part, error: BaseException) -> bool:
    """Whether nothing works any more on the device."""
    fault = diagnose(error, probe=partial(probe_gpu, torch.device(part.device)))
    return fault is not None and fault.is_final
