"""The one loop that numba compiles. Imported only where numba is wanted: it is optional."""

import numba  # type: ignore[import-not-found,import-untyped,unused-ignore]
import numpy as np
from numpy.typing import NDArray


def multiply(weight: NDArray[np.uint16], x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Bits of bfloat16 weights [out, in] and x [R, in] into out [R, out], summed in float32."""
    for column in numba.prange(weight.shape[0]):
        for row in range(x.shape[0]):
            total = np.float32(0)
            for i in range(weight.shape[1]):
                bits = np.uint32(np.uint32(weight[column, i]) << np.uint32(16))
                total += bits.view(np.float32) * x[row, i]
            out[row, column] = total
