"""A Qwen3 stack stepped by the compiled kernels: a few rows at a time, in float32 activations.

Letters in shapes: R rows, K key/value heads, E head size, D hidden size, V outputs of a head.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3_audio.kernels import compiled
from qwen3_audio.kernels.products import TYPES, Int8Linear, KernelLinear, Kernels
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.qwen3 import Stack

# Of prompts in one step: 30 s of sound and some context. Bounds the memory that each thread keeps.
MAX_PROMPT_ROWS = 512


@dataclass(frozen=True, slots=True)
class CacheView:
    """Where a step's rows put their keys and values: each at the end of what it sees."""

    k: Tensor  # [pages, layers, K, positions of a page, E]
    v: Tensor
    pages: Tensor  # int64 [R, N]: those of each row's sequence
    lengths: Tensor  # int32 [R]: positions that a row sees, its own the last
    is_prompt: bool = False  # of whole prompts, one behind the other

    def as_struct(self) -> compiled.Cache:
        return compiled.Cache(
            self.k.data_ptr(),
            self.v.data_ptr(),
            self.k.stride(0),
            self.k.stride(1),
            self.k.shape[3],
            TYPES[self.k.dtype],
            self.pages.data_ptr(),
            self.pages.stride(0),
            self.lengths.data_ptr(),
            self.is_prompt,
        )


class CpuStack:
    """Shares its weights with a torch Stack; keeps its own buffers for at most `max_rows` rows."""

    def __init__(
        self, kernels: Kernels, stack: Stack, heads: Sequence[torch.nn.Module], max_rows: int
    ) -> None:
        config = stack.config
        self.kernels, self.config = kernels, config
        self._kept: list[Tensor] = []  # what C has pointers to
        self._linears: list[Linear] = []
        layers = [self._layer(layer) for layer in stack.layers]
        self._layers = (compiled.Layer * len(layers))(*layers)
        self._heads = [self._matrix(head) for head in heads]
        self._stack = compiled.Stack(
            config.num_layers,
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            config.intermediate_size,
            config.rms_norm_eps,
            self._pointer(stack.norm),
            self._layers,
        )
        self.max_prompt_rows = MAX_PROMPT_ROWS if self._is_fast_with_prompts() else 0
        max_rows = max(max_rows, self.max_prompt_rows)
        self._attended = torch.empty(max_rows, config.num_heads * config.head_dim)
        self._acted = torch.empty(max_rows, config.intermediate_size)

    def step(
        self, rows: Tensor, rope: tuple[Tensor, Tensor], cache: CacheView, head: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """rows float32 [R, D] (overwritten), cos and sin float32 [R, 1, E] → hidden states after
        the final norm float32 [R, D], and the head's logits float32 [R, V] if one is asked for.
        """
        out = torch.empty_like(rows)
        logits, head_struct = None, None
        if head is not None:
            logits = torch.empty(len(rows), self._heads[head].num_out)
            head_struct = ctypes.byref(self._heads[head])
        cos, sin = (part.contiguous() for part in rope)
        self.kernels.library.stack_step(
            self.kernels.pool,
            ctypes.byref(self._stack),
            ctypes.byref(cache.as_struct()),
            rows.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            out.data_ptr(),
            head_struct,
            None if logits is None else logits.data_ptr(),
            self._attended.data_ptr(),
            self._acted.data_ptr(),
            len(rows),
        )
        return out, logits

    def _is_fast_with_prompts(self) -> bool:
        """Whether many rows at once are faster here than in torch's products."""
        multiplies_rounded = bool(self.kernels.library.multiplies_rounded())
        return all(
            isinstance(linear, Int8Linear)
            or (linear.weight.dtype is torch.bfloat16 and multiplies_rounded)
            for linear in self._linears
        )

    def _layer(self, layer: torch.nn.Module) -> compiled.Layer:
        return compiled.Layer(
            *(self._matrix(layer.get_submodule(n)) for n in ("qkv", "out", "gate_up", "down")),
            *(
                self._pointer(layer.get_buffer(name))
                for name in ("input_norm", "q_norm", "k_norm", "mlp_norm")
            ),
        )

    def _matrix(self, linear: torch.nn.Module) -> compiled.Matrix:
        if not isinstance(linear, Int8Linear):
            assert isinstance(linear, Linear)
            linear = KernelLinear(self.kernels, linear)
        self._linears.append(linear)
        return linear.matrix

    def _pointer(self, tensor: Tensor) -> int:
        self._kept.append(tensor.float().contiguous())
        return self._kept[-1].data_ptr()
