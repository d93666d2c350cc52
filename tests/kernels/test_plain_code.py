"""The same source compiled for lesser processors: without AVX-512 and VNNI it is right too."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_cpu_stack import (
    CONFIG,
    check_a_prompt,
    exact_stack_of,
    grow,
    pool_of,
    run_steps,
    stack_of,
)
from torch import Tensor

from qwen3_audio.engine.kv_cache import DecodeAttention
from qwen3_audio.engine.sampling import RowSettings, choose, draw_keys
from qwen3_audio.kernels import compiled
from qwen3_audio.kernels.products import Int8Linear, KernelLinear, Kernels, quantise
from qwen3_audio.models.linear import Linear

pytestmark = pytest.mark.compiler

# Without a vector unit of its own the compiler's effort is what takes long, so it makes less.
PLAIN = [("-O1",)]
X86 = [("-O2", "-march=x86-64-v3"), ("-O1", "-march=x86-64")]
BUILDS = X86 if platform.machine() in ("x86_64", "AMD64") else PLAIN


@pytest.fixture(scope="module", params=BUILDS, ids=" ".join)
def kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernels]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "TARGETS", (request.param,))
        kernels = Kernels(tmp_path_factory.getbasetemp() / "plain-kernels", 2)
    yield kernels
    kernels.close()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_rows", [1, 5, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_equals_torch(kernels: Kernels, dtype: torch.dtype, num_rows: int) -> None:
    weight, bias, x = draw(131, 94).to(dtype), draw(131, seed=1).to(dtype), draw(num_rows, 94)
    got = KernelLinear(kernels, Linear(weight, bias))(x)
    torch.testing.assert_close(got, x @ weight.float().T + bias.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("num_out", "num_in"), [(33, 64), (64, 150), (5, 7)])
@pytest.mark.parametrize("num_rows", [1, 5, 300])
def test_an_int8_product_is_that_of_the_rounded_numbers(
    kernels: Kernels, num_out: int, num_in: int, num_rows: int
) -> None:
    small, scale, sums = quantise(draw(num_out, num_in))
    x = draw(num_rows, num_in, seed=1)
    row_scale = x.abs().amax(1, keepdim=True) / 127
    rounded = (x / row_scale).round() * row_scale
    got = Int8Linear(kernels, small, scale, sums)(x)
    expected = rounded.double() @ (small.double() * scale.double()[:, None]).T
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_equal_the_torch_stack(kernels: Kernels, dtype: torch.dtype) -> None:
    rows = draw(12, 3, CONFIG.hidden_size, seed=2)
    fast_pool, slow_pool = pool_of(torch.float32), pool_of(torch.float32)
    for pool in (fast_pool, slow_pool):
        grow(pool, [12, 12, 12])
    slow_stack, slots = exact_stack_of(dtype), torch.arange(3)
    fast = run_steps(kernels, stack_of(dtype), fast_pool, rows, [0, 0, 0])
    for step, hidden in enumerate(fast):
        positions = torch.full((3,), step)
        attention = DecodeAttention.build(slow_pool, slots, positions, step + 1)
        expected = slow_stack(rows[step], slow_stack.rope(positions), attention)
        torch.testing.assert_close(hidden, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_whole_prompt_equals_its_rows_one_by_one(kernels: Kernels, dtype: torch.dtype) -> None:
    check_a_prompt(kernels, dtype)


def test_choices_are_those_of_torch(kernels: Kernels) -> None:
    logits = draw(60, 200) * 3
    keys = draw_keys(torch.arange(60), torch.full((60,), 5), 1)[:, 0]
    for row in ((0.0, 0, 1.0), (0.9, 50, 1.0)):
        built = RowSettings.build([row] * 60, 200, torch.device("cpu"))
        parts = (built.temperature, built.top_k, built.top_p)
        assert torch.equal(kernels.choose(logits, keys, *parts), choose(logits, keys, built))
    torch.testing.assert_close(kernels.log_sum(logits), logits.logsumexp(-1))


def test_a_compiler_that_does_not_know_the_processor_makes_plain_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "TARGETS", (("-march=of-tomorrow",), ("-O1",)))
    kernels = Kernels(tmp_path, 1)
    linear, x = Linear(draw(9, 32)), draw(2, 32, seed=1)
    torch.testing.assert_close(KernelLinear(kernels, linear)(x), linear(x), atol=1e-5, rtol=1e-5)
    kernels.close()
