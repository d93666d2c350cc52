"""Matrix products by the compiled kernels, and the weights that they take.

Letters in shapes: R rows.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from qwen3_audio.kernels import compiled
from qwen3_audio.models.linear import Linear

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
MAX_PRODUCT_ROWS = 64  # a step of a full batch; for longer prompts oneDNN is faster
INT8_ROWS = 256  # of one call, so that a thread's scratch memory stays small


class Kernels:
    """The library and its threads: one pool for the whole process."""

    def __init__(self, cache_dir: Path, num_threads: int) -> None:
        """Raises NoKernels."""
        self.library = compiled.open_library(cache_dir)
        self.num_threads = num_threads
        self.pool = self.library.pool_open(num_threads)

    def close(self) -> None:
        """End the threads; nothing may be computed after it. Harmless the second time."""
        pool, self.pool = self.pool, None
        if pool is not None:
            self.library.pool_close(pool)

    def lend(self, num_threads: int) -> None:
        """Do with so many threads less, or more again if negative; from any thread."""
        self.library.pool_lend(self.pool, num_threads)

    def multiply(self, matrix: compiled.Matrix, x: Tensor) -> Tensor:
        """x float32 [R, in] → float32 [R, out]."""
        x = x.contiguous()
        out = torch.empty(len(x), matrix.num_out)
        self.library.matrix_multiply(
            self.pool, ctypes.byref(matrix), x.data_ptr(), out.data_ptr(), len(x)
        )
        return out

    def choose(
        self, logits: Tensor, keys: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> Tensor:
        """The twin of engine.sampling.choose: float32 logits [B, V], keys int64 [B] and the rows'
        settings (float32, int64, float32) → chosen ids int64 [B]. Needs no sort and few passes.
        """
        logits = logits.contiguous()
        out = torch.empty(len(logits), dtype=torch.int64)
        columns = [part.contiguous() for part in (keys, temperature, top_k, top_p)]
        self.library.choose_rows(
            self.pool,
            logits.data_ptr(),
            *logits.shape,
            *(column.data_ptr() for column in columns),
            out.data_ptr(),
        )
        return out

    def log_sum(self, logits: Tensor) -> Tensor:
        """log(sum(exp)) of each row: float32 [B, V] → float32 [B]."""
        logits = logits.contiguous()
        out = torch.empty(len(logits))
        self.library.log_sum_rows(self.pool, logits.data_ptr(), *logits.shape, out.data_ptr())
        return out


class KernelLinear(Linear):
    """A Linear whose products of a few float32 rows are made by the kernels."""

    def __init__(self, kernels: Kernels, linear: Linear) -> None:
        super().__init__(linear.weight, linear.bias)
        self._kernels = kernels
        self._bias = None if linear.bias is None else linear.bias.float()
        pointer = None if self._bias is None else self._bias.data_ptr()
        self.matrix = compiled.Matrix(
            self.weight.data_ptr(),
            None,
            None,
            pointer,
            TYPES[self.weight.dtype],
            *self.weight.shape,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [R, in] → float32 [R, out]."""
        if len(x) > MAX_PRODUCT_ROWS:
            return super().forward(x)
        return self._kernels.multiply(self.matrix, x)


class Int8Linear(Linear):
    """Weights as int8 with a scale for each output; activations are scaled row by row."""

    scale: Tensor  # float32 [out]
    sums: Tensor  # int32 [out], of each output's weights

    def __init__(self, kernels: Kernels, weight: Tensor, scale: Tensor, sums: Tensor) -> None:
        super().__init__(weight)
        self.register_buffer("scale", scale)
        self.register_buffer("sums", sums)
        self._kernels = kernels
        self.matrix = compiled.Matrix(
            weight.data_ptr(),
            scale.data_ptr(),
            sums.data_ptr(),
            None,
            TYPES[torch.int8],
            *weight.shape,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x float32 [R, in] → float32 [R, out]."""
        parts = [self._kernels.multiply(self.matrix, part) for part in x.split(INT8_ROWS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weight [out, in] → int8 weight, float32 scale [out], int32 sums [out]."""
    weight = weight.float()
    scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    small = (weight / scale[:, None]).round().to(torch.int8)
    return small, scale, small.int().sum(1, dtype=torch.int32)
