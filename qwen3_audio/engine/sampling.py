"""Choosing codes and tokens for a whole batch, each row with its own settings.

The only randomness comes of (seed, step, group): a counter-based generator makes a key of them, and
of the key and a candidate's id the candidate's noise. So a row draws the same noise alone, in any
batch, on any device and inside a captured graph, and the choice - the largest of logit plus Gumbel
noise - hardly ever hangs on the last bit of a logit, which may depend on the rest of the batch.
Letters in shapes: B rows, V vocabulary, G groups drawn in one step, K candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qwen3_audio.kernels.products import Kernels

# splitmix64 (Steele, Lea, Flood 2014) in wrapping int64 arithmetic
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_UNIFORM_BITS = 23  # with the half that keeps away from 0, what float32 holds exactly


def _shift_right(x: Tensor, num_bits: int) -> Tensor:
    return (x >> num_bits) & ((1 << (64 - num_bits)) - 1)  # logical, not arithmetic


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def draw_keys(seeds: Tensor, steps: Tensor, num_groups: int) -> Tensor:
    """seeds, steps int64 [B] → one key for each group, int64 [B, G]."""
    groups = torch.arange(1, num_groups + 1, device=seeds.device)
    counters = steps[:, None] * num_groups + groups
    return _mix(_mix(seeds)[:, None] + counters * _GOLDEN)


def draw_uniforms(keys: Tensor, ids: Tensor) -> Tensor:
    """keys int64 [B], candidates int64 [B, K] → float32 [B, K], never 0 and never 1."""
    bits = _mix(keys[:, None] + (ids + 1) * _GOLDEN)
    return (_shift_right(bits, 64 - _UNIFORM_BITS).float() + 0.5) * 2.0**-_UNIFORM_BITS


@dataclass(frozen=True, slots=True)
class RowSettings:
    """Settings of the rows of one batch; `max_top_k` bounds the sort (host value)."""

    temperature: Tensor  # float32 [B], 0: greedy
    top_k: Tensor  # int64 [B]
    top_p: Tensor  # float32 [B]
    max_top_k: int

    @classmethod
    def build(
        cls, rows: list[tuple[float, int, float]], vocab_size: int, device: torch.device
    ) -> "RowSettings":
        """rows: (temperature, top_k with 0 = all, top_p) of each row."""
        top_ks = [min(top_k, vocab_size) if top_k > 0 else vocab_size for _, top_k, _ in rows]
        return cls(
            temperature=torch.tensor([row[0] for row in rows], device=device),
            top_k=torch.tensor(top_ks, device=device),
            top_p=torch.tensor([row[2] for row in rows], device=device),
            max_top_k=max(
                1 if row[0] == 0 else top_k for row, top_k in zip(rows, top_ks, strict=True)
            ),
        )


LogSum = Callable[[Tensor], Tensor]  # float32 [B, V] → [B]
Choose = Callable[[Tensor, Tensor, RowSettings], Tensor]


def choose_on(kernels: Kernels | None) -> Choose:
    """`choose`, or its compiled twin where there are kernels."""
    if kernels is None:
        return choose

    def choose_compiled(logits: Tensor, keys: Tensor, settings: RowSettings) -> Tensor:
        return kernels.choose(logits, keys, settings.temperature, settings.top_k, settings.top_p)

    return choose_compiled


def log_sum_on(kernels: Kernels | None) -> LogSum:
    """torch.logsumexp over the last dimension, or its compiled twin where there are kernels."""
    return partial(torch.logsumexp, dim=-1) if kernels is None else kernels.log_sum


def choose(logits: Tensor, keys: Tensor, settings: RowSettings) -> Tensor:
    """float32 logits [B, V], keys int64 [B] → chosen ids int64 [B].

    Temperature, then top-k, then top-p, as the official generate() orders them, then the largest of
    the rest with Gumbel noise, which is a draw from their softmax.
    """
    is_random = settings.temperature > 0
    values, ids = logits.topk(settings.max_top_k, sorted=True)
    if settings.max_top_k == 1:
        return ids[:, 0]
    values = values / torch.where(is_random, settings.temperature, 1.0)[:, None]
    ranks = torch.arange(settings.max_top_k, device=logits.device)
    values = values.masked_fill(ranks >= settings.top_k[:, None], -torch.inf)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    is_cut = (before >= settings.top_p[:, None]) & (ranks > 0)
    noise = -torch.log(-torch.log(draw_uniforms(keys, ids)))
    noise = torch.where(is_random[:, None], noise, 0.0)
    best = (values.masked_fill(is_cut, -torch.inf) + noise).argmax(-1)
    return ids.gather(1, best[:, None])[:, 0]


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty over the set of ids already sampled: seen bool [B, V]."""
    penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, penalised, logits)
