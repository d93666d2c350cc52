"""Plain torch twins of the Triton kernels: the same signatures, shapes and rules, on any device.

Letters in shapes as in shapes.py; D hidden size, H query heads, I width of the feed-forward.
Nothing here waits for the device or depends on what its tensors hold, so it can be captured too.
"""

import torch
from torch import Tensor
from torch.nn import functional

from qwen3_audio.kernels.fused.shapes import (
    HeadNorms,
    History,
    LayerCache,
    Places,
    RopeTable,
    SampleRows,
)
from qwen3_audio.models.qwen3 import grouped_attention, rotate

# splitmix64 (Steele, Lea, Flood 2014) in wrapping int64 arithmetic, as in engine/sampling.py
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
UNIFORM_BITS = 23
_WRAP = 1 << 64


def add_norm(x: Tensor, add: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x and add [R, D] → RMSNorm of their sum [R, D], and the sum [R, D]."""
    total = x if add is None else x + add
    return functional.rms_norm(total, weight.shape, weight, eps), total


def silu_mul(gate_up: Tensor) -> Tensor:
    """Gate and up side by side [R, 2 * I] → silu(gate) * up [R, I]."""
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate) * up


def place(
    qkv: Tensor, norms: HeadNorms, rope: RopeTable, cache: LayerCache, places: Places
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [R, (H + 2 * K) * E] → q [R, H, E], k and v [R, K, E]: q and k normed per head and
    rotated. Keys and values of rows that are no padding are written into their pages.
    """
    q, k, v = _split(qkv, cache)
    cos, sin = (table[places.positions][:, None] for table in (rope.cos, rope.sin))
    q = rotate(functional.rms_norm(q, norms.q.shape, norms.q, norms.eps), cos, sin)
    k = rotate(functional.rms_norm(k, norms.k.shape, norms.k, norms.eps), cos, sin)
    for pool, rows in ((cache.k, k), (cache.v, v)):
        _write(pool, rows.to(pool.dtype), places)
    return q, k, v


def _split(qkv: Tensor, cache: LayerCache) -> tuple[Tensor, Tensor, Tensor]:
    num_kv_heads, head_dim = cache.k.shape[1], cache.k.shape[3]
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    q, k, v = heads.split([heads.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], 1)
    return q, k, v


def _write(pool: Tensor, rows: Tensor, places: Places) -> None:
    """Rows [R, K, E] into pages; padding does what the first row that is none does, or, where
    there is no such row, writes what is there already: two writes to one place are then the same.
    """
    is_real = places.positions < places.lengths
    own = torch.arange(len(rows), device=rows.device)
    rows_at = torch.where(is_real, own, is_real.to(torch.int8).argmax())
    page_positions = pool.shape[2]
    positions = places.positions[rows_at]
    pages, offsets = places.pages[rows_at, positions // page_positions], positions % page_positions
    pool[pages, :, offsets] = torch.where(is_real.any(), rows[rows_at], pool[pages, :, offsets])


def attend(q: Tensor, cache: LayerCache, places: Places) -> Tensor:
    """One row a sequence: q [B, H, E] and what its pages hold below its length → [B, H * E]."""
    num_positions = places.pages.shape[1] * cache.k.shape[2]
    keys, values = (
        pool[places.pages].transpose(2, 3).flatten(1, 2).to(q.dtype) for pool in (cache.k, cache.v)
    )
    at = torch.arange(num_positions, device=q.device)
    # A padded sequence sees one position, so that there is no softmax of nothing, and gives zeros.
    mask = at < places.lengths.clamp(min=1)[:, None]
    out = grouped_attention(q[:, None], keys, values, mask[:, None, None])
    return out.where((places.lengths > 0)[:, None], 0.0)


def attend_frame(
    qkv: Tensor, norms: HeadNorms, rope: RopeTable, cache: LayerCache, start: int
) -> Tensor:
    """`place` and attention inside one frame, where all sequences are at the same position.

    qkv [B * T, (H + 2 * K) * E] of positions start … start + T - 1 → [B * T, H * E]; page b of the
    cache is that of sequence b. T is 2 in the first pass and 1 in the others.
    """
    q, k, v = _split(qkv, cache)
    num_rows = 2 if start == 0 else 1
    num_seqs, end = len(q) // num_rows, start + num_rows
    cos, sin = (table[start:end].repeat(num_seqs, 1)[:, None] for table in (rope.cos, rope.sin))
    q = rotate(functional.rms_norm(q, norms.q.shape, norms.q, norms.eps), cos, sin)
    k = rotate(functional.rms_norm(k, norms.k.shape, norms.k, norms.eps), cos, sin)
    keys, values = cache.k[:num_seqs].transpose(1, 2), cache.v[:num_seqs].transpose(1, 2)
    keys[:, start:end] = k.view(num_seqs, num_rows, *k.shape[1:])
    values[:, start:end] = v.view(num_seqs, num_rows, *v.shape[1:])
    at = torch.arange(end, device=q.device)
    mask = None if num_rows == 1 else (at <= at[:, None])[None, None]
    q = q.reshape(num_seqs, num_rows, *q.shape[1:])
    return grouped_attention(q, keys[:, :end].to(q.dtype), values[:, :end].to(q.dtype), mask)


def choose(logits: Tensor, keys: Tensor, rows: SampleRows, most: int | None = None) -> Tensor:
    """Logits [B, V] of any precision, keys int64 [B] → ids int64 [B], those of
    engine.sampling.choose. Of equal logits the least ids are kept.

    `most`: candidates that a row has at most (1: all are greedy), so that fewer need be sorted.
    """
    logits = logits.float()
    if most == 1:
        return logits.argmax(-1)
    is_random = rows.temperature > 0
    values, ids = _sort(logits, logits.shape[1] if most is None else most)
    values = values / torch.where(is_random, rows.temperature, 1.0)[:, None]
    ranks = torch.arange(values.shape[1], device=logits.device)
    values = values.masked_fill(ranks >= rows.top_k[:, None], -torch.inf)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    is_cut = (before >= rows.top_p[:, None]) & (rows.top_p < 1)[:, None]
    noise = -torch.log(-torch.log(_uniforms(keys, ids)))
    noisy = values.masked_fill(is_cut & (ranks > 0), -torch.inf) + noise
    best = torch.where(is_random, noisy.argmax(-1), 0)
    return ids.gather(1, best[:, None])[:, 0]


def _sort(logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The `most` largest of float32 logits [B, V] in their order, of equal ones the least ids
    first: values and ids [B, most].
    """
    vocab = logits.shape[1]
    if most >= vocab:
        return logits.sort(dim=-1, descending=True, stable=True)
    bits = (logits + 0.0).view(torch.int32)  # 0 and -0 are one
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the values
    ids = torch.arange(vocab, device=logits.device)
    ranked = (order.long() << 32 | (vocab - 1 - ids)).topk(most, dim=-1, sorted=True).values
    ids = vocab - 1 - (ranked & 0xFFFFFFFF)
    return logits.gather(1, ids), ids


def choose_first(logits: Tensor, keys: Tensor, rows: SampleRows, history: History) -> Tensor:
    """`choose` of a frame's first code: with repetition penalty and bans before it; what is chosen
    becomes seen.
    """
    logits, h = logits.float(), history
    penalised = torch.where(logits < 0, logits * h.penalty, logits / h.penalty)
    logits = torch.where(h.seen[h.slots], penalised, logits)
    ids = torch.arange(logits.shape[1], device=logits.device)
    is_early = h.frames[h.slots] < h.min_frames
    banned = h.is_banned | ((ids == h.eos) & is_early[:, None])
    chosen = choose(logits.masked_fill(banned, -torch.inf), keys, rows)
    h.seen[h.slots, chosen] = torch.ones_like(chosen, dtype=torch.bool)
    return chosen


def draw_keys(seeds: Tensor, steps: Tensor, num_groups: int) -> Tensor:
    """Seeds and steps int64 [B] → keys int64 [B, G], those of engine.sampling.draw_keys."""
    groups = torch.arange(1, num_groups + 1, device=seeds.device)
    counters = steps[:, None] * num_groups + groups
    return _mix(_mix(seeds)[:, None] + counters * _signed(GOLDEN))


def _signed(number: int) -> int:
    return number - _WRAP if number >= _WRAP // 2 else number


def _shift_right(x: Tensor, num_bits: int) -> Tensor:
    return (x >> num_bits) & ((1 << (64 - num_bits)) - 1)  # logical, not arithmetic


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(MIX_1)
    x = (x ^ _shift_right(x, 27)) * _signed(MIX_2)
    return x ^ _shift_right(x, 31)


def _uniforms(keys: Tensor, ids: Tensor) -> Tensor:
    """keys int64 [B], ids int64 [B, V] → float32 [B, V], never 0 and never 1."""
    x = _mix(keys[:, None] + (ids + 1) * _signed(GOLDEN))
    return (_shift_right(x, 64 - UNIFORM_BITS).float() + 0.5) * 2.0**-UNIFORM_BITS
