"""Compiles every Triton kernel for a card that is not there: `compile_kernels.py 90` for 9.0.

A stand-in for the driver says which card it is; launches compile and run nothing. Prints a line for
each kernel: its name and the bytes that its registers overflow by (0: none).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from qwen3_audio.kernels.fused.trials import Trials, TrialSizes
from qwen3_audio.kernels.fused.triton_ops import TritonOps

HAS_FP8 = 89  # compute capability 8.9


class Card:
    """As much of a driver as compiling needs."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def stack_bytes(cubin: bytes) -> str:
    """What cuobjdump says of a kernel's local memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return text.split("STACK:")[1].split()[0]


def main(capability: int) -> None:
    driver.set_active(Card(capability))

    def compile_only(function: JITFunction, grid: object) -> object:
        def call(*args: object, **kwargs: object) -> None:
            kernel = function.run(*args, grid=grid, warmup=True, **kwargs)
            sys.stdout.write(f"{function.__name__} {stack_bytes(kernel.asm['cubin'])}\n")

        return call

    JITFunction.__getitem__ = compile_only
    for dtype in (torch.bfloat16, torch.float32):
        has_fp8 = capability >= HAS_FP8 and dtype is torch.bfloat16
        trials = Trials(TritonOps(), torch.device("cpu"), dtype, TrialSizes(), has_fp8=has_fp8)
        list(trials.errors())


if __name__ == "__main__":
    main(int(sys.argv[1]))
