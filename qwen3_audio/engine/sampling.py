"""Choosing codes and tokens for a whole batch, each row with its own settings.

The only randomness is one number for each (seed, step, group), made by a counter-based generator:
a row draws the same numbers alone, in any batch, on any device, and inside a captured graph.
Letters in shapes: B rows, V vocabulary, G groups drawn in one step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# splitmix64 (Steele, Lea, Flood 2014) in wrapping int64 arithmetic
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_UNIFORM_BITS = 24  # what float32 holds exactly


def _shift_right(x: Tensor, num_bits: int) -> Tensor:
    return (x >> num_bits) & ((1 << (64 - num_bits)) - 1)  # logical, not arithmetic


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniforms(seeds: Tensor, steps: Tensor, num_groups: int) -> Tensor:
    """seeds, steps int64 [B] → float32 [B, G] in [0, 1)."""
    groups = torch.arange(1, num_groups + 1, device=seeds.device)
    counters = steps[:, None] * num_groups + groups
    bits = _mix(_mix(seeds)[:, None] + counters * _GOLDEN)
    return _shift_right(bits, 64 - _UNIFORM_BITS).float() * 2.0**-_UNIFORM_BITS


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


def choose(logits: Tensor, uniform: Tensor, settings: RowSettings) -> Tensor:
    """float32 logits [B, V], uniform numbers [B] → chosen ids int64 [B].

    Temperature, then top-k, then top-p, as the official generate() orders them; the number picks
    from the cumulative distribution in order of falling probability, so 0 is the most probable.
    """
    is_random = settings.temperature > 0
    values, ids = logits.topk(settings.max_top_k, sorted=True)
    values = values / torch.where(is_random, settings.temperature, 1.0)[:, None]
    ranks = torch.arange(settings.max_top_k, device=logits.device)
    values = values.masked_fill(ranks >= settings.top_k[:, None], -torch.inf)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(
        (before >= settings.top_p[:, None]) & (ranks > 0), 0.0
    )
    cumulative = probabilities.cumsum(-1)
    targets = torch.where(is_random, uniform, 0.0) * cumulative[:, -1]
    picks = (cumulative <= targets[:, None]).sum(-1)
    last = (probabilities > 0).sum(-1) - 1  # rounding must not pick what was cut off
    return ids.gather(1, torch.minimum(picks, last)[:, None])[:, 0]


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty over the set of ids already sampled: seen bool [B, V]."""
    penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, penalised, logits)
