"""The compiled choice against its torch twin."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwen3_audio.engine.sampling import Choose, RowSettings, choose, choose_on, draw_keys
from qwen3_audio.kernels.products import Kernels

CPU = torch.device("cpu")
Row = tuple[float, int, float]  # temperature, top_k, top_p


pytestmark = pytest.mark.compiler


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Choose]:
    kernels = Kernels(tmp_path_factory.getbasetemp() / "kernels", 1)
    yield choose_on(kernels)
    kernels.close()


def draw_logits(num_rows: int, size: int, seed: int) -> Tensor:
    return torch.randn(num_rows, size, generator=torch.Generator().manual_seed(seed)) * 3


def keys_of(num_rows: int, seed: int) -> Tensor:
    return draw_keys(torch.arange(num_rows) + seed, torch.full((num_rows,), 5), 1)[:, 0]


rows = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.05, 2.0)),
        st.one_of(st.just(0), st.just(5000), st.integers(1, 80)),
        st.one_of(st.just(1.0), st.floats(0.05, 1.0)),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=200)
@given(mixed=rows, seed=st.integers(0, 100_000), size=st.sampled_from([3, 64, 200, 2048]))
def test_it_chooses_as_torch_does(compiled: Choose, mixed: list[Row], seed: int, size: int) -> None:
    logits, keys = draw_logits(len(mixed), size, seed), keys_of(len(mixed), seed)
    built = RowSettings.build(mixed, size, CPU)
    slow, fast = choose(logits, keys, built), compiled(logits, keys, built)
    for at, row in enumerate(mixed):
        # Rounding may move the edge of top-p by one id: then the choices may differ rightly.
        assert int(slow[at]) == int(fast[at]) or row[2] < 1.0


def test_top_p_hardly_ever_differs_from_torch(compiled: Choose) -> None:
    logits, keys = draw_logits(2000, 100, 1), keys_of(2000, 1)
    built = RowSettings.build([(0.9, 50, 0.8)] * 2000, 100, CPU)
    assert int((choose(logits, keys, built) != compiled(logits, keys, built)).sum()) <= 2


def test_banned_ids_are_never_chosen(compiled: Choose) -> None:
    logits = draw_logits(200, 30, 2)
    logits[:, 5:] = -torch.inf
    built = RowSettings.build([(1.5, 0, 1.0), (1.0, 20, 0.99)] * 100, 30, CPU)
    assert int(compiled(logits, keys_of(200, 2), built).max()) < 5


def test_rows_without_numbers_leave_the_others_alone(compiled: Choose) -> None:
    logits = draw_logits(3, 50, 3)
    spoilt = logits.clone()
    spoilt[0], spoilt[2] = torch.nan, -torch.inf
    built = RowSettings.build([(0.9, 50, 0.9), (0.9, 50, 0.9), (0.0, 0, 1.0)], 50, CPU)
    keys = keys_of(3, 3)
    chosen = compiled(spoilt, keys, built)
    assert bool(((chosen >= 0) & (chosen < 50)).all())
    assert int(chosen[1]) == int(compiled(logits, keys, built)[1])


@pytest.mark.parametrize("num_rows", [1, 3, 40])
def test_log_sums_are_torchs(tmp_path_factory: pytest.TempPathFactory, num_rows: int) -> None:
    kernels = Kernels(tmp_path_factory.getbasetemp() / "kernels", 3)
    logits = draw_logits(num_rows, 5003, seed=num_rows)
    logits[0, :17] = -torch.inf
    torch.testing.assert_close(kernels.log_sum(logits), logits.logsumexp(-1), atol=1e-5, rtol=0)
    kernels.close()
