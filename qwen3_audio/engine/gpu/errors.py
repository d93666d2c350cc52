"""What an exception of a step means for the GPU: nothing, too little memory, or its end.

An error in a kernel is sticky: whatever comes later in the process fails with it, and only another
process can go on. Which errors are, CUDA does not say, so the device is asked to add two numbers.
"""

from collections.abc import Callable
from functools import partial

import torch

from qwen3_audio.engine.engine import Diagnose, Fault

# Older torch has no type of its own for errors of a device; libraries beside it never have.
SIGNS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "Triton Error [CUDA]")

OUT_OF_MEMORY = Fault("The GPU had too little memory left for this request; the server goes on")
PASSING = Fault("The GPU failed on this request; the server goes on")
FINAL = Fault("The GPU has stopped working; the server has to start again", is_final=True)


def diagnosis_for(device: torch.device) -> Diagnose | None:
    """What the engine asks after a failed step; None where there is no GPU."""
    if device.type != "cuda":
        return None
    return partial(diagnose, probe=partial(probe_gpu, device))


def diagnose(error: BaseException, *, probe: Callable[[], None]) -> Fault | None:
    """None: the error is not the device's. `probe` raises RuntimeError if nothing works any more.

    Out of memory, what torch keeps for later is given back.
    """
    is_full = isinstance(error, torch.OutOfMemoryError)
    if not is_full and not is_device_error(error):
        return None
    try:
        if is_full:
            torch.cuda.empty_cache()
        probe()
    except RuntimeError:
        return FINAL
    return OUT_OF_MEMORY if is_full else PASSING


def is_device_error(error: BaseException) -> bool:
    """By its type where torch has one, else by the words that CUDA's libraries use."""
    kind = getattr(torch, "AcceleratorError", None)
    if kind is not None and isinstance(error, kind):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def probe_gpu(device: torch.device) -> None:
    """Raises RuntimeError if the GPU can't compute."""
    if float(torch.ones(2, device=device).sum()) != 2.0:
        raise RuntimeError("The GPU adds wrongly")
