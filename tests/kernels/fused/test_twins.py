"""The plain twins against what they stand for, and which operations are chosen where."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwen3_audio.engine.sampling import RowSettings, choose, draw_keys, penalise
from qwen3_audio.kernels.fused import ops, twins
from qwen3_audio.kernels.fused.fp8 import FP8, Fp8Linear, quantise, why_no_fp8
from qwen3_audio.kernels.fused.ops import FusedOps, NoTriton
from qwen3_audio.kernels.fused.shapes import History, SampleRows
from qwen3_audio.models.linear import Linear

CPU = torch.device("cpu")
Row = tuple[float, int, float]  # temperature, top_k, top_p
mixed_rows = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.05, 2.0)),
        st.one_of(st.just(0), st.just(5000), st.integers(1, 80)),
        st.one_of(st.just(1.0), st.floats(0.05, 1.0)),
    ),
    min_size=1,
    max_size=6,
)


def draw_logits(num_rows: int, size: int, seed: int) -> Tensor:
    return torch.randn(num_rows, size, generator=torch.Generator().manual_seed(seed)) * 3


def keys_of(num_rows: int, seed: int) -> Tensor:
    return draw_keys(torch.arange(num_rows) + seed, torch.full((num_rows,), 5), 1)[:, 0]


def rows_of(built: RowSettings) -> SampleRows:
    return SampleRows(built.temperature, built.top_k, built.top_p)


@settings(deadline=None, max_examples=100)
@given(mixed=mixed_rows, seed=st.integers(0, 100_000), size=st.sampled_from([3, 64, 200, 2048]))
def test_the_twin_chooses_as_the_engine_does(mixed: list[Row], seed: int, size: int) -> None:
    logits, keys = draw_logits(len(mixed), size, seed), keys_of(len(mixed), seed)
    built = RowSettings.build(mixed, size, CPU)
    assert torch.equal(twins.choose(logits, keys, rows_of(built)), choose(logits, keys, built))


def test_a_top_k_beyond_the_vocabulary_is_all_of_it() -> None:
    logits, keys = draw_logits(50, 64, 1), keys_of(50, 1)
    built = RowSettings.build([(1.0, 0, 1.0)] * 50, 64, CPU)
    beyond = SampleRows(built.temperature, torch.full((50,), 1 << 31), built.top_p)
    assert torch.equal(twins.choose(logits, keys, beyond), choose(logits, keys, built))


@pytest.mark.parametrize("heat", [0.0, 0.9])
def test_the_first_code_follows_penalty_and_bans(heat: float) -> None:
    num_rows, size, eos = 40, 30, 4
    logits, keys = draw_logits(num_rows, size, 2), keys_of(num_rows, 2)
    slots = torch.arange(num_rows).flip(0)
    generator = torch.Generator().manual_seed(3)
    seen = torch.rand(num_rows + 1, size, generator=generator) < 0.3
    banned = torch.rand(size, generator=generator) < 0.5
    banned[eos] = False
    frames = torch.arange(num_rows + 1) % 4
    logits[:, eos] += 4
    history = History(slots, seen.clone(), frames, banned, eos, min_frames=2, penalty=1.5)
    built = RowSettings.build([(heat, 10, 1.0)] * num_rows, size, CPU)
    got = twins.choose_first(logits, keys, rows_of(built), history)
    expected = penalise(logits, seen[slots], 1.5).masked_fill(banned, -torch.inf)
    is_early = frames[slots] < 2
    expected[is_early, eos] = -torch.inf
    assert torch.equal(got, choose(expected, keys, built))
    assert not (got[is_early] == eos).any() and (got[~is_early] == eos).any()
    seen[slots, got] = True
    assert torch.equal(history.seen, seen)


def test_there_are_no_kernels_for_a_cpu_and_the_reason_is_told() -> None:
    chosen = FusedOps.choose(CPU)
    assert type(chosen) is FusedOps
    assert str(chosen) == "plain torch: Triton kernels are for GPUs, and this is cpu"


def test_without_triton_the_twins_are_chosen_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, ops.TRITON, raising=False)
    for name in ("attention", "frame", "products", "rows", "sampler"):
        monkeypatch.delitem(sys.modules, f"qwen3_audio.kernels.fused.triton_{name}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    chosen = FusedOps.choose(torch.device("cuda"))
    assert type(chosen) is FusedOps
    assert "Triton can't be imported" in str(chosen)


def test_kernels_that_do_not_work_here_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> FusedOps:
        raise NoTriton("Triton's attention came out wrong here")

    monkeypatch.setattr(ops, "open_triton", fail)
    chosen = FusedOps.choose(torch.device("cuda"))
    assert str(chosen) == "plain torch: Triton's attention came out wrong here"


def test_8_bit_weights_are_within_half_a_step_of_the_exact_ones() -> None:
    weight = draw_logits(40, 64, 4)
    weight[3], weight[5] = 0, weight[5] * 1e4
    small, scale = quantise(weight)
    assert small.dtype is FP8
    back = small.float() * scale[:, None]
    assert torch.isfinite(back).all() and torch.equal(back[3], weight[3])
    step = weight.abs().amax(1, keepdim=True) / 448 * 2**-9
    assert ((back - weight).abs() <= weight.abs() * 2**-4 + step).all()


def test_an_8_bit_product_is_that_of_the_rounded_weights() -> None:
    linear = Linear(draw_logits(40, 64, 5), draw_logits(1, 40, 6)[0])
    small, x = Fp8Linear.of(linear), draw_logits(6, 64, 7).view(2, 3, 64)
    rounded = small.weight.float() * small.scale[:, None]
    expected = torch.nn.functional.linear(x, rounded, linear.bias)
    torch.testing.assert_close(small(x), expected)
    assert small(x).shape == (2, 3, 40)


def test_8_bit_floats_are_not_for_a_cpu() -> None:
    assert why_no_fp8(CPU) == "8-bit floats are for GPUs, and this is cpu"
