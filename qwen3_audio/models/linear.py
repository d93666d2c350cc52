"""The one matrix product of all decoder stacks: the place where other precisions come in."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """y = x Wᵀ + b with a frozen weight [out, in]."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out] in x's dtype; the product itself in the weight's."""
        if x.dtype is self.weight.dtype:
            return functional.linear(x, self.weight, self.bias)
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


@runtime_checkable
class LinearSource(Protocol):
    """Weights that make their linear layers themselves, in another precision."""

    def linear(self, prefixes: Sequence[str]) -> Linear: ...


def load_linear(weights: Mapping[str, Tensor], names: str | Sequence[str]) -> Linear:
    """One Linear from one tensor name prefix, or several stacked along the output (fused)."""
    prefixes = [names] if isinstance(names, str) else list(names)
    if isinstance(weights, LinearSource):
        return weights.linear(prefixes)
    return join_linear(weights, prefixes)


def join_linear(weights: Mapping[str, Tensor], prefixes: Sequence[str]) -> Linear:
    """Linear layers of the same input as one, in the precision of the weights."""
    parts = [weights[f"{prefix}.weight"] for prefix in prefixes]
    biases = [weights[f"{prefix}.bias"] for prefix in prefixes if f"{prefix}.bias" in weights]
    weight = parts[0] if len(parts) == 1 else torch.cat(parts)
    if not biases:
        return Linear(weight)
    return Linear(weight, biases[0] if len(biases) == 1 else torch.cat(biases))
