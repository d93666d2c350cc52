"""int8 weights: how exact they are, and the cache file that they are mapped from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from qwen3_audio.kernels.int8_weights import Int8Weights, cache_path
from qwen3_audio.kernels.products import Int8Linear, Kernels, quantise
from qwen3_audio.models.linear import load_linear

NAMES = ["a.q_proj", "a.k_proj"]


pytestmark = pytest.mark.compiler


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    kernels = Kernels(tmp_path_factory.getbasetemp() / "kernels", 2)
    yield kernels
    kernels.close()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return {f"{name}.weight": draw(40, 70, seed=at) / 8 for at, name in enumerate(NAMES)}


@pytest.mark.parametrize(("num_out", "num_in"), [(33, 64), (64, 150), (5, 7), (130, 256)])
@pytest.mark.parametrize("num_rows", [1, 3, 4, 9, 300])
def test_products_are_those_of_the_rounded_numbers(
    kernels: Kernels, num_out: int, num_in: int, num_rows: int
) -> None:
    small, scale, sums = quantise(draw(num_out, num_in))
    x = draw(num_rows, num_in, seed=1)
    row_scale = x.abs().amax(1, keepdim=True) / 127
    rounded = (x / row_scale).round() * row_scale
    got = Int8Linear(kernels, small, scale, sums)(x)
    expected = rounded.double() @ (small.double() * scale.double()[:, None]).T
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_row_has_the_same_bits_alone_and_in_any_batch(kernels: Kernels) -> None:
    linear = Int8Linear(kernels, *quantise(draw(70, 100)))
    x = draw(11, 100, seed=2)
    together = linear(x)
    for row in range(len(x)):
        assert torch.equal(linear(x[row : row + 1])[0], together[row])


def test_rounding_keeps_the_direction_of_a_product(kernels: Kernels) -> None:
    weight, x = draw(512, 1024), draw(8, 1024, seed=3)
    got = Int8Linear(kernels, *quantise(weight))(x)
    assert float(functional.cosine_similarity(got, x @ weight.T).min()) > 0.9998


def test_rows_and_weights_of_zeros_give_zeros(kernels: Kernels) -> None:
    linear = Int8Linear(kernels, *quantise(torch.zeros(20, 64)))
    assert torch.equal(linear(draw(2, 64)), torch.zeros(2, 20))
    linear = Int8Linear(kernels, *quantise(draw(20, 64)))
    assert torch.equal(linear(torch.zeros(1, 64)), torch.zeros(1, 20))


def test_the_cache_file_gives_the_same_products(
    kernels: Kernels, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "int8" / "model.safetensors"
    fresh = Int8Weights(weights, kernels, path)
    assert not fresh.is_cached
    first = load_linear(fresh, NAMES)
    fresh.write()
    mapped = Int8Weights(weights, kernels, path)
    assert mapped.is_cached
    x = draw(2, 70, seed=4)
    assert torch.equal(load_linear(mapped, NAMES)(x), first(x))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_torn_cache_file_is_made_again(
    kernels: Kernels, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    fresh = Int8Weights(weights, kernels, path)
    load_linear(fresh, NAMES)
    fresh.write()
    path.write_bytes(path.read_bytes()[:-100])
    torn = Int8Weights(weights, kernels, path)
    assert not torn.is_cached
    load_linear(torn, NAMES)
    torn.write()
    assert Int8Weights(weights, kernels, path).is_cached


def test_a_cache_file_of_another_checkpoint_is_made_again(
    kernels: Kernels, weights: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where somebody has given it the right name."""
    path, other_path = tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"
    other = Int8Weights({name: -w for name, w in weights.items()}, kernels, other_path)
    load_linear(other, NAMES)
    other.write()
    other_path.rename(path)
    ours = Int8Weights(weights, kernels, path)
    assert not ours.is_cached
    assert caplog.messages == [
        "The cache file model-1.safetensors was made for other weights and is made again"
    ]
    load_linear(ours, NAMES)
    ours.write()
    assert Int8Weights(weights, kernels, path).is_cached


def test_a_new_cache_file_replaces_those_of_earlier_weights(
    kernels: Kernels, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    earlier, new, others = (
        tmp_path / f"{name}.safetensors" for name in ("model-1", "model-2", "other-model-1")
    )
    for path in (earlier, others, new):
        source = Int8Weights(weights, kernels, path)
        load_linear(source, NAMES)
        source.write()
    assert sorted(tmp_path.iterdir()) == sorted([new, others])


def test_small_layers_stay_exact(kernels: Kernels, tmp_path: Path) -> None:
    weights = {"talker.text_projection.linear_fc1.weight": draw(8, 8)}
    source = Int8Weights(weights, kernels, tmp_path / "none")
    linear = load_linear(source, "talker.text_projection.linear_fc1")
    assert not isinstance(linear, Int8Linear)


def test_other_weights_have_another_cache_file(tmp_path: Path) -> None:
    """Also where only a few bytes in the middle of a large file differ in their samples."""
    numbers = np.zeros(3_000_000, np.float32)
    paths = []
    for value in (0.0, 1.0):
        file = tmp_path / "model.safetensors"
        numbers[::1000] = value
        save_file({"weight": torch.from_numpy(numbers)}, file)
        paths.append(cache_path(tmp_path, "model", [file]))
    assert paths[0] != paths[1]
    assert cache_path(tmp_path, "model", [tmp_path / "model.safetensors"]) == paths[1]


def test_weights_that_differ_in_one_small_tensor_have_another_cache_file(tmp_path: Path) -> None:
    """A model whose last layer was trained further, say."""
    file, paths = tmp_path / "model.safetensors", []
    for value in (0.0, 1.0):
        tensors = {f"{at}": torch.zeros(500_000) for at in range(4)}
        save_file(tensors | {"small": torch.full((9, 9), value)}, file)
        paths.append(cache_path(tmp_path, "model", [file]))
    assert paths[0] != paths[1]
