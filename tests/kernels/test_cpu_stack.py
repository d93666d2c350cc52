"""The compiled kernels against torch on random stacks, and what happens where there are none."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stack_weights import draw_stack_weights
from torch import Tensor

from qwen3_audio.engine.kv_cache import DecodeAttention, KvPool
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.kernels.compiled import NoKernels, make_ahead
from qwen3_audio.kernels.cpu_stack import CacheView, CpuStack
from qwen3_audio.kernels.products import KernelLinear, Kernels
from qwen3_audio.models.configs import StackConfig
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.qwen3 import Stack

CPU = torch.device("cpu")
# Odd sizes on purpose: nothing is a multiple of the kernels' blocks.
CONFIG = StackConfig(
    hidden_size=72,
    intermediate_size=150,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=20,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    vocab_size=130,
    max_positions=128,
)
# All of them are multiples, and a group has two heads.
EVEN = replace(
    CONFIG, hidden_size=64, intermediate_size=192, num_heads=4, num_kv_heads=2, head_dim=32
)
DTYPES = [torch.float32, torch.bfloat16]


pytestmark = pytest.mark.compiler


@pytest.fixture(scope="module", params=[1, 3], ids=["one thread", "three threads"])
def kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernels]:
    kernels = Kernels(tmp_path_factory.getbasetemp() / "kernels", request.param)
    yield kernels
    kernels.close()


def random_weights(dtype: torch.dtype, config: StackConfig = CONFIG) -> dict[str, Tensor]:
    weights = draw_stack_weights(config, torch.Generator().manual_seed(1))
    weights["norm.weight"] = torch.ones(config.hidden_size)
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


def stack_of(dtype: torch.dtype) -> Stack:
    return Stack(CONFIG, random_weights(dtype), "", torch.float32)


def exact_stack_of(dtype: torch.dtype) -> Stack:
    """The same numbers in float32 everywhere."""
    weights = {name: tensor.float() for name, tensor in random_weights(dtype).items()}
    return Stack(CONFIG, weights, "", torch.float32)


class _Seq(Sequence):
    """A sequence that only has its slot."""

    def __init__(self, slot: int) -> None:
        self.slot = slot


def pool_of(dtype: torch.dtype, config: StackConfig = CONFIG) -> KvPool:
    return KvPool(config, num_pages=16, num_slots=4, max_positions=100, dtype=dtype, device=CPU)


def view_of(pool: KvPool, slots: Tensor, positions: Tensor) -> CacheView:
    return CacheView(pool.k, pool.v, pool.page_of[slots], lengths=(positions + 1).int())


def grow(pool: KvPool, lengths: list[int]) -> None:
    """Give slots pages in turns, so that theirs are mixed."""
    for length in range(1, max(lengths) + 1):
        for slot, end in enumerate(lengths):
            if length <= end:
                pool.extend(slot, length)


def run_steps(
    kernels: Kernels, stack: Stack, pool: KvPool, rows: Tensor, starts: list[int]
) -> list[Tensor]:
    """rows [steps, B, D]: one row a step for each slot, slot b beginning at starts[b]."""
    fast = CpuStack(kernels, stack, [], len(starts))
    slots = torch.arange(len(starts))
    out = []
    for step, step_rows in enumerate(rows):
        positions = torch.tensor(starts) + step
        hidden, _ = fast.step(
            step_rows.clone(), stack.rope(positions), view_of(pool, slots, positions)
        )
        out.append(hidden)
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_equal_the_torch_stack_in_float32(kernels: Kernels, dtype: torch.dtype) -> None:
    rows = torch.randn(40, 3, CONFIG.hidden_size, generator=torch.Generator().manual_seed(2))
    starts = [0, 0, 0]
    fast_pool, slow_pool = pool_of(torch.float32), pool_of(torch.float32)
    for pool in (fast_pool, slow_pool):
        grow(pool, [40, 40, 40])
    fast = run_steps(kernels, stack_of(dtype), fast_pool, rows, starts)
    slow_stack, slots = exact_stack_of(dtype), torch.arange(3)
    for step, hidden in enumerate(fast):
        positions = torch.tensor(starts) + step
        attention = DecodeAttention.build(slow_pool, slots, positions, step + 1)
        expected = slow_stack(rows[step], slow_stack.rope(positions), attention)
        torch.testing.assert_close(hidden, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("cache_dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(
    kernels: Kernels, cache_dtype: torch.dtype
) -> None:
    stack = stack_of(torch.bfloat16)
    rows = torch.randn(20, 4, CONFIG.hidden_size, generator=torch.Generator().manual_seed(3))
    together_pool, alone_pool = pool_of(cache_dtype), pool_of(cache_dtype)
    grow(together_pool, [20, 20, 20, 20])
    grow(alone_pool, [20])
    together = run_steps(kernels, stack, together_pool, rows, [0, 0, 0, 0])
    alone = run_steps(kernels, stack, alone_pool, rows[:, 2:3], [0])
    for batch, single in zip(together, alone, strict=True):
        assert torch.equal(batch[2:3], single)


def check_a_prompt(kernels: Kernels, dtype: torch.dtype) -> None:
    """A whole prompt gives what its rows give one by one.

    With bfloat16 weights a prompt's rows are rounded for the products; single rows are not.
    """
    tolerance = 2e-5 if dtype is torch.float32 else 0.05
    rows = torch.randn(71, 1, EVEN.hidden_size, generator=torch.Generator().manual_seed(4))
    stack = Stack(EVEN, random_weights(dtype, EVEN), "", torch.float32)
    whole, single = pool_of(torch.float32, EVEN), pool_of(torch.float32, EVEN)
    for pool in (whole, single):
        grow(pool, [0, 71])
    fast, positions = CpuStack(kernels, stack, [], 71), torch.arange(71)
    pages, lengths = whole.page_of[1].expand(71, -1), (positions + 1).int()
    view = CacheView(whole.k, whole.v, pages, lengths, is_prompt=True)
    hidden, _ = fast.step(rows[:, 0].clone(), stack.rope(positions), view)
    for position in positions:
        view = view_of(single, torch.tensor([1]), position[None])
        expected, _ = fast.step(rows[position].clone(), stack.rope(position[None]), view)
        torch.testing.assert_close(hidden[position][None], expected, atol=tolerance, rtol=tolerance)
    cosine = torch.nn.functional.cosine_similarity(hidden[-1], expected[0], dim=0)
    assert cosine > 0.9999


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_whole_prompt_equals_its_rows_one_by_one(kernels: Kernels, dtype: torch.dtype) -> None:
    check_a_prompt(kernels, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_prompt_has_the_same_bits_alone_and_behind_another(
    kernels: Kernels, dtype: torch.dtype
) -> None:
    lengths = [7, 40, 1, 13]
    stack = Stack(EVEN, random_weights(dtype, EVEN), "", torch.float32)
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randn(length, EVEN.hidden_size, generator=generator) for length in lengths]
    seqs = [_Seq(slot) for slot in range(len(lengths))]

    def prefill(num_rows: int) -> Tensor:
        pool = pool_of(torch.bfloat16, EVEN)
        fast = CpuStack(kernels, stack, [], num_rows)
        fast.max_prompt_rows = num_rows
        return PagedDecoder(stack, pool, len(lengths), fast).prefill(seqs, prompts)

    together, one_by_one = prefill(100), prefill(40)
    assert torch.equal(together, one_by_one)
    assert len({row.sum().item() for row in together}) == len(lengths)


@pytest.mark.parametrize("num_rows", [1, 2, 5, 16, 17])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_product_equals_torch(kernels: Kernels, dtype: torch.dtype, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    weight = torch.randn(131, 94, generator=generator).to(dtype)
    bias = torch.randn(131, generator=generator).to(dtype)
    x = torch.randn(num_rows, 94, generator=generator)
    if num_rows > 16:
        x = x.to(dtype).float()  # many rows meet small weights in their dtype
    got = KernelLinear(kernels, Linear(weight, bias))(x)
    tolerance = 5e-2 if num_rows > 16 and dtype is torch.bfloat16 else 1e-4
    torch.testing.assert_close(got, x @ weight.float().T + bias.float(), atol=tolerance, rtol=1e-2)


def test_a_head_gives_logits_of_the_normed_hidden_state(kernels: Kernels) -> None:
    stack, pool = stack_of(torch.float32), pool_of(torch.float32)
    grow(pool, [1])
    head = Linear(torch.randn(130, CONFIG.hidden_size))
    fast = CpuStack(kernels, stack, [head], 1)
    slots, positions = torch.tensor([0]), torch.tensor([0])
    hidden, logits = fast.step(
        torch.randn(1, CONFIG.hidden_size),
        stack.rope(positions),
        view_of(pool, slots, positions),
        0,
    )
    assert logits is not None
    torch.testing.assert_close(logits, head(hidden), atol=1e-4, rtol=1e-4)


def test_without_a_compiler_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NoKernels, match="no C compiler"):
        Kernels(tmp_path, 1)


def test_a_broken_compiler_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: shutil.os.path.realpath("/bin/false"))
    with pytest.raises(NoKernels, match="could not make"):
        Kernels(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_what_is_made_ahead_is_only_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ahead(tmp_path)
    (library,) = tmp_path.iterdir()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    make_ahead(tmp_path)
    Kernels(tmp_path, 1).close()
    assert list(tmp_path.iterdir()) == [library]


def test_trouble_with_making_it_ahead_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    make_ahead(tmp_path)
    (tmp_path / "file").write_text("no folder")
    make_ahead(tmp_path / "file")


def test_a_torn_library_is_made_again(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.getbasetemp() / "kernels"
    Kernels(shared, 1).close()
    (whole,) = shared.iterdir()
    torn = tmp_path / "torn" / whole.name
    torn.parent.mkdir()
    torn.write_bytes(whole.read_bytes()[:500])
    Kernels(torn.parent, 1).close()
    assert torn.stat().st_size == whole.stat().st_size


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NoKernels, match="can't be kept or opened"):
        Kernels(tmp_path / "file", 1)
