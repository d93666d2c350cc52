"""Triton kernels that choose ids as engine.sampling.choose does, one program a row, without a sort.

Imported only where Triton is wanted: it is optional. The k-th largest logit is found bit by bit:
32 counts over values that lie in registers (a small vocabulary) or are read again (a large one).
Floats are compared as integers of the same order. Of equal logits the least ids are kept.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from qwen3_audio.kernels.fused.shapes import History, SampleRows
from qwen3_audio.kernels.fused.triton_noise import gumbel

MOST_IN_REGISTERS = 8192
_BLOCK = 4096  # of a larger vocabulary at a time
# Rows of larger tensors, aligned or not: of each one number is read, which is worth no variant.
_VIEWS = ["keys", "temperature", "top_k", "top_p"]
_LEAST = tl.constexpr(-(1 << 31))
_LEAST_SHARE = tl.constexpr(1e-30)  # with a top_p of 0 the best one stays


@triton.jit
def _order(values):
    """Integers in the order of float32 values; 0 and -0 are one."""
    bits = tl.where(values == 0, 0.0, values).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _with_bit(found, bit):
    """What a search tries next: 0 first, then one bit after the other into what was found."""
    one = tl.full([], 1, tl.int32)  # 1 << 31 would be no int32
    return tl.where(bit == 31, 0, found + (one << (bit & 31)))


@triton.jit
def _first_of(is_one, most):
    """Of those that are, the first `most`."""
    return is_one & (tl.cumsum(is_one.to(tl.int32), 0) <= most)


@triton.jit
def _keep_top_k(order, k):
    """The k largest of order int32 [BLOCK], as bool [BLOCK]; outside it is the least integer."""
    found = tl.full([], _LEAST, tl.int32)
    for i in range(32):
        tried = _with_bit(found, 31 - i)
        count = tl.sum((order >= tried).to(tl.int32), 0)
        found = tl.where(count >= k, tried, found)
    kept = order >= found
    if tl.sum(kept.to(tl.int32), 0) > k:
        above = order > found
        kept = above | _first_of(order == found, k - tl.sum(above.to(tl.int32), 0))
    return kept


@triton.jit
def _keep_top_p(order, weights, p):
    """The largest that hold a share p of the weights [BLOCK], at least one, as bool [BLOCK]."""
    share = tl.maximum(p, _LEAST_SHARE) * tl.sum(weights, 0)
    found = tl.full([], _LEAST, tl.int32)
    for i in range(32):
        tried = _with_bit(found, 31 - i)
        above = tl.sum(tl.where(order > tried, weights, 0.0), 0)
        found = tl.where(above >= share, tried, found)
    kept = (order > found) & (weights > 0)
    last = tl.min(tl.where(kept, order, 0x7FFFFFFF), 0)  # the edge may lie among equals
    equal = kept & (order == last)
    if tl.sum(equal.to(tl.int32), 0) > 1:
        above = tl.sum(tl.where(order > last, weights, 0.0), 0)
        weight = tl.max(tl.where(equal, weights, 0.0), 0)
        before = (tl.cumsum(equal.to(tl.int32), 0) - 1).to(tl.float32)
        kept = kept & ((order > last) | (above + before * weight < share))
    return kept


@triton.jit
def _penalised(values, ids, seen, is_banned, vocab, penalty):
    """Logits with those of seen ids made worse and those of banned ones the worst."""
    was_seen = tl.load(seen + ids, mask=ids < vocab, other=0) != 0
    worse = tl.where(values < 0, values * penalty, values / penalty)
    banned = tl.load(is_banned + ids, mask=ids < vocab, other=1) != 0
    return tl.where(banned, float("-inf"), tl.where(was_seen, worse, values))


@triton.jit(do_not_specialize_on_alignment=_VIEWS)
def _choose(
    logits,
    keys,
    temperature,
    top_k,
    top_p,
    out,
    slots,
    seen,
    frames,
    is_banned,
    key_stride,
    vocab,
    eos,
    min_frames,
    penalty,
    HAS_HISTORY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A vocabulary that fits into the registers."""
    row = tl.program_id(0).to(tl.int64)
    ids = tl.arange(0, BLOCK)
    inside = ids < vocab
    values = tl.load(logits + row * vocab + ids, mask=inside, other=float("-inf")).to(tl.float32)
    if HAS_HISTORY:
        slot = tl.load(slots + row)
        never = tl.where(tl.load(frames + slot) < min_frames, eos, -1)
        values = _penalised(values, ids, seen + slot * vocab, is_banned, vocab, penalty)
        values = tl.where(ids == never, float("-inf"), values)
    heat = tl.load(temperature + row)
    if heat > 0:
        order = tl.where(inside, _order(values), _LEAST)
        values = values / heat
        k, p = tl.load(top_k + row), tl.load(top_p + row)
        kept = inside
        if k < vocab:
            kept = _keep_top_k(order, k.to(tl.int32))
        if p < 1:
            weights = tl.where(kept, tl.exp(values - tl.max(values, 0)), 0.0)
            kept = _keep_top_p(order, weights, p)
        noisy = values + gumbel(tl.load(keys + row * key_stride), ids)
        values = tl.where(kept, noisy, float("-inf"))
    chosen = tl.minimum(tl.argmax(values, 0), vocab - 1)  # whatever is no number
    tl.store(out + row, chosen.to(tl.int64))
    if HAS_HISTORY:
        tl.store(seen + tl.load(slots + row) * vocab + chosen, 1)


@triton.jit
def _num_above(start, vocab, order_bound, BLOCK: tl.constexpr):
    """How many logits lie above, as int32."""
    counts = tl.zeros([BLOCK], tl.int32)  # summed up once: threads wait for each other there
    for begin in range(0, vocab, BLOCK):
        ids = begin + tl.arange(0, BLOCK)
        values = tl.load(start + ids, mask=ids < vocab, other=float("-inf")).to(tl.float32)
        counts += ((ids < vocab) & (_order(values) > order_bound)).to(tl.int32)
    return tl.sum(counts, 0)


@triton.jit
def _weight_above(start, vocab, order_bound, peak, heat, BLOCK: tl.constexpr):
    """The sum of exp((logit - peak) / heat) of logits that lie above, as float32."""
    totals = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, vocab, BLOCK):
        ids = begin + tl.arange(0, BLOCK)
        values = tl.load(start + ids, mask=ids < vocab, other=float("-inf")).to(tl.float32)
        totals += tl.where(_order(values) > order_bound, tl.exp((values - peak) / heat), 0.0)
    return tl.sum(totals, 0)


@triton.jit
def _least_above(start, vocab, order_bound, BLOCK: tl.constexpr):
    """The least logit that lies above, and the greatest of all."""
    least, greatest = float("inf"), float("-inf")
    for begin in range(0, vocab, BLOCK):
        ids = begin + tl.arange(0, BLOCK)
        values = tl.load(start + ids, mask=ids < vocab, other=float("-inf")).to(tl.float32)
        is_above = (_order(values) > order_bound) & (ids < vocab)
        least = tl.minimum(least, tl.min(tl.where(is_above, values, float("inf")), 0))
        greatest = tl.maximum(greatest, tl.max(values, 0))
    return least, greatest


@triton.jit
def _edge_of_top_k(start, vocab, k, BLOCK: tl.constexpr):
    """The order of the k-th largest logit, and how many that equal it are among the k."""
    found = tl.full([], _LEAST, tl.int32)
    for i in range(32):
        tried = _with_bit(found, 31 - i)
        # at least `tried`: above the integer before it
        found = tl.where(_num_above(start, vocab, tried - 1, BLOCK) >= k, tried, found)
    return found, k - _num_above(start, vocab, found, BLOCK)


@triton.jit
def _edge_of_top_p(start, vocab, edge, num_at_edge, heat, p, BLOCK: tl.constexpr):
    """The same pair for the largest that hold a share p of what is kept so far.

    All logits are kept so far where the edge is the least integer, which is the order of none.
    """
    least, peak = _least_above(start, vocab, edge, BLOCK)
    total = _weight_above(start, vocab, edge, peak, heat, BLOCK)
    if edge > _LEAST:
        least, peak = _least_above(start, vocab, edge - 1, BLOCK)
        total += tl.exp((least - peak) / heat) * num_at_edge.to(tl.float32)
    share = tl.maximum(p, _LEAST_SHARE) * total
    found = tl.full([], _LEAST, tl.int32)
    for i in range(32):
        tried = _with_bit(found, 31 - i)
        above = _weight_above(start, vocab, tried, peak, heat, BLOCK)
        # Below the edge lies nothing that is kept.
        found = tl.where((tried < edge) | (above >= share), tried, found)
    last, peak = _least_above(start, vocab, found, BLOCK)
    missing = share - _weight_above(start, vocab, _order(last), peak, heat, BLOCK)
    wanted = tl.ceil(missing / tl.maximum(tl.exp((last - peak) / heat), _LEAST_SHARE))
    num_at_last = tl.maximum(tl.minimum(wanted, vocab * 1.0).to(tl.int32), 1)
    is_same = _order(last) == edge
    return _order(last), tl.where(is_same, tl.minimum(num_at_last, num_at_edge), num_at_last)


@triton.jit(do_not_specialize_on_alignment=_VIEWS)
def _choose_large(
    logits,
    keys,
    temperature,
    top_k,
    top_p,
    out,
    key_stride,
    vocab,
    BLOCK: tl.constexpr,
):
    """A vocabulary that is read as often as a row's settings need: once for a greedy one."""
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * vocab
    heat, k, p = tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row)
    key = tl.load(keys + row * key_stride)
    edge = tl.full([], _LEAST, tl.int32)
    num_at_edge = tl.full([], 0, tl.int32)
    if heat > 0:
        if k < vocab:
            edge, num_at_edge = _edge_of_top_k(start, vocab, k.to(tl.int32), BLOCK)
        if p < 1:
            edge, num_at_edge = _edge_of_top_p(start, vocab, edge, num_at_edge, heat, p, BLOCK)
    best = tl.full([], float("-inf"), tl.float32)
    chosen = tl.full([], 0, tl.int32)
    for begin in range(0, vocab, BLOCK):
        ids = begin + tl.arange(0, BLOCK)
        values = tl.load(start + ids, mask=ids < vocab, other=float("-inf")).to(tl.float32)
        if heat > 0:
            order = _order(values)
            equal = (order == edge) & (ids < vocab)
            num_equal = tl.sum(equal.to(tl.int32), 0)
            if num_equal > num_at_edge:
                equal = _first_of(equal, num_at_edge)
            num_at_edge -= tl.minimum(num_equal, num_at_edge)
            values = values / heat + gumbel(key, ids)
            values = tl.where((order > edge) | equal, values, float("-inf"))
        highest = tl.max(values, 0)
        if highest > best:
            best = highest
            chosen = begin + tl.argmax(values, 0)
    tl.store(out + row, chosen.to(tl.int64))


def choose(logits: Tensor, keys: Tensor, rows: SampleRows) -> Tensor:
    """See FusedOps.choose_ids."""
    logits = logits.contiguous()
    num_rows, vocab = logits.shape
    if vocab <= MOST_IN_REGISTERS:
        return _choose_small(logits, keys, rows, None)
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    _choose_large[(num_rows,)](
        logits,
        keys,
        *_columns(rows),
        out,
        keys.stride(0),
        vocab,
        BLOCK=_BLOCK,
        enable_fp_fusion=True,
        num_warps=8,
    )
    return out


def choose_first(logits: Tensor, keys: Tensor, rows: SampleRows, history: History) -> Tensor:
    """See FusedOps.choose_first."""
    return _choose_small(logits.contiguous(), keys, rows, history)


def _choose_small(
    logits: Tensor, keys: Tensor, rows: SampleRows, history: History | None
) -> Tensor:
    num_rows, vocab = logits.shape
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    block = triton.next_power_of_2(vocab)
    tensors: tuple[Tensor, ...] = (out, out, out, out)  # not read
    numbers: tuple[int, int, float] = (0, 0, 1.0)
    if history is not None:
        h = history
        tensors = (
            h.slots.contiguous(),
            h.seen.view(torch.uint8),
            h.frames,
            h.is_banned.view(torch.uint8),
        )
        numbers = (h.eos, h.min_frames, h.penalty)
    _choose[(num_rows,)](
        logits,
        keys,
        *_columns(rows),
        out,
        *tensors,
        keys.stride(0),
        vocab,
        *numbers,
        HAS_HISTORY=history is not None,
        BLOCK=block,
        enable_fp_fusion=True,
        num_warps=max(1, min(8, block // 512)),
    )
    return out


def _columns(rows: SampleRows) -> tuple[Tensor, Tensor, Tensor]:
    return rows.temperature.contiguous(), rows.top_k.contiguous(), rows.top_p.contiguous()
