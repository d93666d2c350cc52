"""Products of exact bfloat16 weights and float32 activations by numba, where there is no compiler.

Measured on one core with AVX-512 BF16 beside torch's bfloat16 product (3072 x 1024, 1024 x 1024):
1.1 times as fast for one row, 2 for two, 1.4 for four, half as fast for eight. It rounds nothing.
Letters in shapes: R rows.
"""

import importlib
import pickle
import shutil
import threading
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen3_audio.models.linear import Linear, join_linear

MAX_ROWS = 4
SIGNATURE = "void(uint16[:, ::1], float32[:, ::1], float32[:, ::1])"
# Sums may be taken in any order, as vectors need it; what is no number stays so.
FAST_MATH = {"reassoc", "contract", "nsz"}
UNREADABLE = (EOFError, pickle.UnpicklingError, AttributeError, ImportError, ValueError)


class NoNumba(Exception):
    """Why numba can't be used; a sentence for `doctor`."""


class NumbaProducts:
    """One compiled product for the whole process, kept in the cache folder."""

    def __init__(self, cache_dir: Path, num_threads: int) -> None:
        """Raises NoNumba. `num_threads` of numba's own sleep while torch's work."""
        try:
            kernel = importlib.import_module("qwen3_audio.kernels.numba_kernel")
        except (ImportError, OSError) as error:
            raise NoNumba(f"numba can't be imported ({error})") from error
        self._numba = kernel.numba
        self.num_threads = min(num_threads, self._numba.config.NUMBA_NUM_THREADS)
        self._numba.config.THREADING_LAYER = "workqueue"  # the one that is always there
        # numba's own names of its files leave out whether the loop is to be shared by threads.
        cache_dir /= "shared" if self.num_threads > 1 else "alone"
        self._numba.config.CACHE_DIR = str(cache_dir)
        self._is_busy = threading.Lock()  # that layer ends the process if two threads call it
        try:
            self._multiply = self._compile(kernel.multiply, cache_dir)
        except (OSError, RuntimeError) as error:
            raise NoNumba(f"numba can't keep what it compiles ({error})") from error

    def multiply(self, weight: NDArray[np.uint16], x: Tensor) -> Tensor:
        """Bits of bfloat16 weights [out, in], x float32 [R, in] → float32 [R, out]."""
        out = torch.empty(len(x), len(weight))
        with self._is_busy:
            self._numba.set_num_threads(self.num_threads)  # holds for the calling thread only
            self._multiply(weight, x.contiguous().numpy(), out.numpy())
        return out

    def _compile(self, function: Callable[..., None], cache_dir: Path) -> Any:
        cache_dir.mkdir(parents=True, exist_ok=True)
        decorate = self._numba.njit(
            SIGNATURE, fastmath=FAST_MATH, parallel=self.num_threads > 1, nogil=True, cache=True
        )
        try:
            return decorate(function)
        except UNREADABLE:  # torn by a full disk, say: made again
            shutil.rmtree(cache_dir)
            cache_dir.mkdir()
            return decorate(function)


class NumbaLinear(Linear):
    """A Linear whose products of a few float32 rows are made by numba; torch makes the others."""

    def __init__(self, products: NumbaProducts, linear: Linear) -> None:
        super().__init__(linear.weight, linear.bias)
        self._products = products
        self._bits = linear.weight.contiguous().view(torch.uint16).numpy()
        self._bias = None if linear.bias is None else linear.bias.float()

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [R, in] → float32 [R, out]."""
        if len(x) > MAX_ROWS:
            return super().forward(x)
        out = self._products.multiply(self._bits, x)
        return out if self._bias is None else out + self._bias


class NumbaWeights(ChainMap[str, Tensor]):
    """The tensors of `weights`; its bfloat16 linear layers are made NumbaLinear."""

    def __init__(self, weights: Mapping[str, Tensor], products: NumbaProducts) -> None:
        super().__init__(weights)  # type: ignore[arg-type]  # nothing is ever written
        self._products = products

    def linear(self, prefixes: Sequence[str]) -> Linear:
        """What load_linear gives for these tensor name prefixes."""
        linear = join_linear(self.maps[0], prefixes)
        is_small = linear.weight.dtype is torch.bfloat16
        return NumbaLinear(self._products, linear) if is_small else linear
