"""The page book by its rules, and paged attention against plain attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwen3_audio.engine.kv_cache import (
    PAGE_POSITIONS,
    DecodeAttention,
    KvPool,
    PageBook,
    PrefillAttention,
)
from qwen3_audio.models.configs import StackConfig

NUM_PAGES = 12
NUM_SLOTS = 3
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
CONFIG = StackConfig(
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    vocab_size=10,
    max_positions=1000,
)


def make_pool(num_pages: int = NUM_PAGES, max_positions: int = 200) -> KvPool:
    return KvPool(
        CONFIG,
        num_pages=num_pages,
        num_slots=NUM_SLOTS,
        max_positions=max_positions,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(("positions", "pages"), [(0, 0), (1, 1), (32, 1), (33, 2), (64, 2)])
def test_a_started_page_counts_whole(positions: int, pages: int) -> None:
    assert PageBook.pages_for(positions) == pages


def test_reservations_stop_at_the_last_page() -> None:
    book = PageBook(3)
    book.reserve(2 * PAGE_POSITIONS)
    assert book.can_reserve(PAGE_POSITIONS)
    assert not book.can_reserve(PAGE_POSITIONS + 1)
    book.release(2 * PAGE_POSITIONS, [])
    assert book.can_reserve(3 * PAGE_POSITIONS)


def pages_of(pool: KvPool, slot: int, num_positions: int) -> list[int]:
    pages: list[int] = pool.page_of[slot, : PageBook.pages_for(num_positions)].tolist()
    return pages


lives = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(1, 200)),
        st.tuples(st.just("grow"), st.integers(0, NUM_SLOTS - 1), st.integers(1, 60)),
        st.tuples(st.just("leave"), st.integers(0, NUM_SLOTS - 1)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(lives)
def test_no_page_is_lent_twice_and_all_come_back(steps: list[tuple[object, ...]]) -> None:
    pool = make_pool()
    reserved: dict[int, int] = {}
    lengths: dict[int, int] = {}
    for step in steps:
        free = [slot for slot in range(NUM_SLOTS) if slot not in reserved]
        if step[0] == "start" and free and pool.book.can_reserve(step[1]):
            pool.book.reserve(step[1])
            reserved[free[0]], lengths[free[0]] = step[1], 0
        elif step[0] == "grow" and step[1] in reserved:
            slot = step[1]
            lengths[slot] = min(lengths[slot] + step[2], reserved[slot])
            pool.extend(slot, lengths[slot])
        elif step[0] == "leave" and step[1] in reserved:
            pool.free(step[1], reserved.pop(step[1]))
            del lengths[step[1]]
        lent = [p for slot, n in lengths.items() for p in pages_of(pool, slot, n)]
        assert len(set(lent)) == len(lent)
        assert all(0 <= page < NUM_PAGES for page in lent)
    for slot, num_positions in reserved.items():
        pool.free(slot, num_positions)
    assert pool.book.can_reserve(NUM_PAGES * PAGE_POSITIONS)
    assert sorted(pool.book.take() for _ in range(NUM_PAGES)) == list(range(NUM_PAGES))


def test_the_last_page_may_reach_beyond_the_longest_request() -> None:
    pool = make_pool(num_pages=2, max_positions=40)
    pool.book.reserve(40)
    pool.extend(0, 40)
    assert set(pages_of(pool, 0, 40)) == {0, 1}


def draw_rows(num_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """q [R, H, E], k and v [R, K, E]."""
    q = torch.randn(num_rows, HEADS, HEAD_DIM, generator=generator)
    k, v = (torch.randn(num_rows, KV_HEADS, HEAD_DIM, generator=generator) for _ in range(2))
    return q, k, v


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of one sequence, written out: [T, H, E] → [T, H * E]."""
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
    scores = torch.einsum("qhe,khe->hqk", q, k) / HEAD_DIM**0.5
    is_future = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(is_future, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khe->qhe", weights, v).flatten(1)


class Sequences:
    """Random rows of several sequences, and the paged cache that holds what came before."""

    def __init__(self, lengths: list[int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.lengths = lengths
        self.rows = [draw_rows(length, generator) for length in lengths]
        self.pool = make_pool(num_pages=60)
        order = torch.randperm(60, generator=generator).tolist()
        self.pool.book._free = order  # pages in any order, as after a long day
        garbage = torch.randn(self.pool.k.shape, generator=generator)
        self.pool.k.copy_(garbage)
        self.pool.v.copy_(garbage)

    def prefill(self, layer: int, slots: list[int], lengths: list[int]) -> list[Tensor]:
        for slot, length in zip(slots, lengths, strict=True):
            self.pool.extend(slot, length)
        attention = PrefillAttention.build(self.pool, slots, lengths)
        parts = [
            [x[:length] for x in self.rows[slot]]
            for slot, length in zip(slots, lengths, strict=True)
        ]
        out = attention(layer, *(torch.cat(x) for x in zip(*parts, strict=True)))
        return list(out.split(lengths))

    def decode(self, layer: int, slots: list[int], positions: list[int]) -> Tensor:
        for slot, position in zip(slots, positions, strict=True):
            self.pool.extend(slot, position + 1)
        attention = DecodeAttention.build(
            self.pool, torch.tensor(slots), torch.tensor(positions), max(positions) + 1
        )
        rows = [
            [x[position] for x in self.rows[slot]]
            for slot, position in zip(slots, positions, strict=True)
        ]
        return attention(layer, *(torch.stack(x) for x in zip(*rows, strict=True)))


some_lengths = st.lists(st.integers(2, 100), min_size=1, max_size=NUM_SLOTS)


@settings(max_examples=15, deadline=None)
@given(some_lengths, st.integers(0, 1000))
def test_prompts_packed_together_attend_as_if_alone(lengths: list[int], seed: int) -> None:
    sequences = Sequences(lengths, seed)
    got = sequences.prefill(1, list(range(len(lengths))), lengths)
    for rows, part in zip(sequences.rows, got, strict=True):
        assert torch.allclose(part, plain_attention(*rows), atol=1e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(some_lengths, st.integers(0, 1000), st.data())
def test_rows_added_one_by_one_attend_like_the_whole(
    lengths: list[int], seed: int, data: st.DataObject
) -> None:
    sequences = Sequences(lengths, seed)
    slots = list(range(len(lengths)))
    starts = [data.draw(st.integers(1, length - 1)) for length in lengths]
    sequences.prefill(0, slots, starts)
    positions = dict(zip(slots, starts, strict=True))
    whole = [plain_attention(*rows) for rows in sequences.rows]
    while positions:
        out = sequences.decode(0, list(positions), list(positions.values()))
        for row, (slot, position) in zip(out, positions.items(), strict=True):
            assert torch.allclose(row, whole[slot][position], atol=1e-5, rtol=1e-5)
        positions = {s: p + 1 for s, p in positions.items() if p + 1 < lengths[s]}


def test_a_row_in_a_batch_is_the_row_alone() -> None:
    together, alone = Sequences([90, 5, 40], seed=1), Sequences([90, 5, 40], seed=1)
    together.prefill(0, [0, 1, 2], [89, 4, 39])
    batch = together.decode(0, [0, 1, 2], [89, 4, 39])
    for slot, position in enumerate([89, 4, 39]):
        alone.prefill(0, [slot], [position])
        row = alone.decode(0, [slot], [position])
        assert torch.allclose(batch[slot : slot + 1], row, atol=1e-6, rtol=1e-6)


def test_layers_do_not_share_rows() -> None:
    sequences = Sequences([10], seed=2)
    sequences.prefill(0, [0], [10])
    (page,) = pages_of(sequences.pool, 0, 10)
    before = sequences.pool.k[page, 0].clone()
    sequences.pool.k[page, 1] = 0.0
    assert torch.equal(sequences.pool.k[page, 0], before)
    assert before.any()


def test_pages_that_are_taken_together_are_those_that_come_one_by_one() -> None:
    pool, other = make_pool(), make_pool()
    for num_positions in (1, 33, 70):
        other.extend(1, num_positions)
    assert pool.take(1, 70) == pages_of(other, 1, 70)
    assert pool.take(1, 70) == pool.take(1, 20)
    assert not pool.page_of.any()
    pool.free(1, 0)
    assert sorted(pool.book._free) == list(range(NUM_PAGES))
