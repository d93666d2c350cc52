"""numba's products against torch's, and what happens where there is no numba."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_cpu_stack import CONFIG, DecodeAttention, exact_stack_of, grow, pool_of, random_weights
from torch import Tensor

from qwen3_audio.kernels.numba_products import (
    MAX_ROWS,
    NoNumba,
    NumbaLinear,
    NumbaProducts,
    NumbaWeights,
)
from qwen3_audio.models.linear import Linear, load_linear
from qwen3_audio.models.qwen3 import Stack

pytestmark = pytest.mark.numba


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "numba"


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def products(request: pytest.FixtureRequest, cache_dir: Path) -> Iterator[NumbaProducts]:
    return NumbaProducts(cache_dir, request.param)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_rows", range(1, MAX_ROWS + 1))
@pytest.mark.parametrize(("num_out", "num_in"), [(131, 95), (64, 256), (1, 1)])
def test_few_rows_are_multiplied_exactly(
    products: NumbaProducts, num_rows: int, num_out: int, num_in: int
) -> None:
    weight, bias = draw(num_out, num_in).bfloat16(), draw(num_out, seed=1).bfloat16()
    x = draw(num_rows, num_in, seed=2)
    got = NumbaLinear(products, Linear(weight, bias))(x)
    torch.testing.assert_close(got, x @ weight.float().T + bias.float(), atol=1e-4, rtol=1e-5)


def test_more_rows_are_torchs(products: NumbaProducts) -> None:
    linear, x = Linear(draw(40, 70).bfloat16()), draw(MAX_ROWS + 1, 70, seed=1)
    assert torch.equal(NumbaLinear(products, linear)(x), linear(x))


def test_only_bfloat16_weights_are_numbas(products: NumbaProducts) -> None:
    weights = {"small.weight": draw(4, 4).bfloat16(), "wide.weight": draw(4, 4)}
    source = NumbaWeights(weights, products)
    assert isinstance(load_linear(source, "small"), NumbaLinear)
    assert not isinstance(load_linear(source, "wide"), NumbaLinear)
    assert set(source) == set(weights)


def test_a_stack_of_them_is_as_exact_as_float32(products: NumbaProducts) -> None:
    weights = NumbaWeights(random_weights(torch.bfloat16), products)
    stacks = [Stack(CONFIG, weights, "", torch.float32), exact_stack_of(torch.bfloat16)]
    made = []
    for stack in stacks:
        pool = pool_of(torch.float32)
        grow(pool, [8, 8])
        for step, rows in enumerate(draw(8, 2, CONFIG.hidden_size, seed=3)):
            positions = torch.full((2,), step)
            attention = DecodeAttention.build(pool, torch.arange(2), positions, step + 1)
            made.append(stack(rows, stack.rope(positions), attention))
    for got, expected in zip(made[:8], made[8:], strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_what_is_compiled_is_kept_and_made_again_where_it_is_torn(tmp_path: Path) -> None:
    folder = tmp_path
    NumbaProducts(folder, 1)
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    for path in kept:
        path.write_bytes(path.read_bytes()[:20])
    products = NumbaProducts(folder, 1)
    weight, x = draw(3, 5), draw(1, 5)
    got = products.multiply(weight.bfloat16().view(torch.uint16).numpy(), x)
    torch.testing.assert_close(got, x @ weight.bfloat16().float().T)


def test_without_numba_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "qwen3_audio.kernels.numba_kernel", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(NoNumba, match="numba can't be imported"):
        NumbaProducts(tmp_path, 1)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NoNumba, match="can't keep what it compiles"):
        NumbaProducts(tmp_path / "file", 1)
