"""The stack of fused operations, with plain twins, against the plain stack and its cache."""

from dataclasses import replace

import pytest
import torch
from stack_weights import draw_stack_weights
from torch import Tensor

from qwen3_audio.engine.kv_cache import DecodeAttention, KvPool
from qwen3_audio.kernels.fused.fp8 import Fp8Linear, Fp8Weights
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.stack import FusedStack
from qwen3_audio.models.configs import StackConfig
from qwen3_audio.models.qwen3 import Stack

CPU = torch.device("cpu")
NUM_SLOTS = 5
SCRATCH = NUM_SLOTS - 1
CONFIG = StackConfig(
    hidden_size=72,
    intermediate_size=150,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=20,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    vocab_size=130,
    max_positions=128,
)
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 0.15}


class FewRows(FusedOps):
    """The way of few rows, with twins."""

    max_few_rows = 4


ways = pytest.mark.parametrize("ops", [FusedOps(), FewRows()], ids=["many", "few"])


def weights_of(dtype: torch.dtype, config: StackConfig = CONFIG) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    weights = draw_stack_weights(config, generator)
    weights["norm.weight"] = torch.rand(config.hidden_size, generator=generator) + 0.5
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


def stack_of(dtype: torch.dtype, config: StackConfig = CONFIG) -> Stack:
    return Stack(config, weights_of(dtype, config), "", dtype)


def pool_of(dtype: torch.dtype, lengths: list[int]) -> KvPool:
    """Slots have their pages in turns, so that they are mixed."""
    pool = KvPool(
        CONFIG, num_pages=16, num_slots=NUM_SLOTS, max_positions=100, dtype=dtype, device=CPU
    )
    for length in range(1, max(lengths) + 1):
        for slot, end in enumerate(lengths):
            if length <= end:
                pool.extend(slot, length)
    return pool


def fused(ops: FusedOps, stack: Stack, pool: KvPool) -> FusedStack:
    return FusedStack(ops, stack, pool.k, pool.v, max_positions=pool.max_positions)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_equal_the_plain_stack(dtype: torch.dtype, ops: FusedOps) -> None:
    """Sequences of different lengths over several pages, the first page's edge among them."""
    stack, ends = stack_of(dtype), [70, 33, 5]
    fast_pool, slow_pool = pool_of(dtype, ends), pool_of(dtype, ends)
    fast, slots = fused(ops, stack, fast_pool), torch.arange(3)
    for step, rows in enumerate(draw(70, 3, CONFIG.hidden_size).to(dtype)):
        positions = torch.tensor([min(step, end - 1) for end in ends])
        got = fast.step(rows, positions, fast_pool.page_of[slots], positions + 1)
        attention = DecodeAttention.build(slow_pool, slots, positions, step + 1)
        expected = stack(rows, stack.rope(positions), attention)
        torch.testing.assert_close(got, expected, atol=CLOSE[dtype], rtol=1e-5)


@ways
def test_padding_is_inert(ops: FusedOps) -> None:
    stack, pool = stack_of(torch.float32), pool_of(torch.float32, [40, 40])
    fast, rows = fused(ops, stack, pool), draw(4, CONFIG.hidden_size)
    positions, lengths = torch.tensor([3, 0, 39, 0]), torch.tensor([4, 0, 40, 0])
    slots = torch.tensor([0, SCRATCH, 1, SCRATCH])
    alone_pool = pool_of(torch.float32, [40, 40])
    alone = fused(ops, stack, alone_pool)
    together = fast.step(rows, positions, pool.page_of[slots], lengths)
    assert torch.isfinite(together).all()
    for row in (0, 2):
        pages = alone_pool.page_of[slots[row : row + 1]]
        part = slice(row, row + 1)
        expected = alone.step(rows[part], positions[part], pages, lengths[part])
        torch.testing.assert_close(together[part], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(pool.k != 0, alone_pool.k != 0)


def test_nothing_but_padding_writes_nothing() -> None:
    stack, pool = stack_of(torch.float32), pool_of(torch.float32, [40])
    zeros = torch.zeros(2, dtype=torch.int64)
    hidden = fused(FusedOps(), stack, pool).step(draw(2, 72), zeros, pool.page_of[zeros], zeros)
    assert torch.isfinite(hidden).all()
    assert not pool.k.any() and not pool.v.any()


@ways
def test_8_bit_feed_forward_stays_near(ops: FusedOps) -> None:
    config = replace(CONFIG, hidden_size=64, intermediate_size=160)
    weights = weights_of(torch.float32, config)
    exact, small = (Stack(config, w, "", torch.float32) for w in (weights, Fp8Weights(weights)))
    for layer in small.layers:
        assert isinstance(layer.gate_up, Fp8Linear) and isinstance(layer.down, Fp8Linear)
        assert not isinstance(layer.qkv, Fp8Linear) and not isinstance(layer.out, Fp8Linear)
    rows, positions = draw(3, 64), torch.zeros(3, dtype=torch.int64)
    pools = [pool_of(torch.float32, [1, 1, 1]) for _ in range(2)]
    expected, got = (
        fused(ops, stack, pool).step(rows, positions, pool.page_of[torch.arange(3)], positions + 1)
        for stack, pool in zip((exact, small), pools, strict=True)
    )
    assert not torch.equal(got, expected)
    assert torch.nn.functional.cosine_similarity(got, expected).min() > 0.998
