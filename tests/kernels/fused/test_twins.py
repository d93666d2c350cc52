"""The plain twins against what they stand for, and which operations are chosen where."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwen3_audio.engine.sampling import RowSettings, choose, draw_keys, penalise
from qwen3_audio.kernels.fused import fp8, ops, twins
from qwen3_audio.kernels.fused.fp8 import (
    FP8,
    Fp8Linear,
    becomes_fp8,
    find_fault,
    quantise,
    why_no_fp8,
)
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


@settings(deadline=None, max_examples=60)
@given(
    mixed=mixed_rows,
    seed=st.integers(0, 100_000),
    size=st.sampled_from([3, 200, 2048]),
    most=st.sampled_from([64, 1024]),
)
def test_knowing_how_many_candidates_there_are_changes_no_choice(
    mixed: list[Row], seed: int, size: int, most: int
) -> None:
    """Logits in bfloat16 are often equal, also at the edge of what is kept."""
    bounded = [(heat, min(top_k or most, most), top_p) for heat, top_k, top_p in mixed]
    logits, keys = draw_logits(len(mixed), size, seed).bfloat16(), keys_of(len(mixed), seed)
    rows = rows_of(RowSettings.build(bounded, 1 << 31, CPU))
    assert torch.equal(twins.choose(logits, keys, rows, most), twins.choose(logits, keys, rows))


@pytest.mark.parametrize("most", [1, 5, None])
def test_zeros_of_both_signs_are_equal(most: int | None) -> None:
    logits, keys = torch.tensor([[-1.0, -0.0, 0.0, 0.0] * 50]), keys_of(1, 1)
    rows = rows_of(RowSettings.build([(0.0, 5, 1.0)], 200, CPU))
    assert twins.choose(logits, keys, rows, most).tolist() == [1]


def test_greedy_rows_need_no_sort() -> None:
    logits, keys = draw_logits(50, 200, 1).mul(2).round().bfloat16(), keys_of(50, 1)
    rows = rows_of(RowSettings.build([(0.0, 5, 0.5)] * 50, 200, CPU))
    assert torch.equal(twins.choose(logits, keys, rows, 1), twins.choose(logits, keys, rows))


@given(st.lists(st.tuples(*[st.integers(-(1 << 63), (1 << 63) - 1)] * 2), min_size=1, max_size=5))
def test_keys_are_those_of_the_engine(pairs: list[tuple[int, int]]) -> None:
    seeds, steps = torch.tensor(pairs).unbind(1)
    for num_groups in (1, 16):
        drawn = twins.draw_keys(seeds, steps, num_groups)
        assert torch.equal(drawn, draw_keys(seeds, steps, num_groups))


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
    for name in ("attention", "frame", "noise", "products", "rows", "sampler"):
        monkeypatch.delitem(sys.modules, f"qwen3_audio.kernels.fused.triton_{name}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    chosen = FusedOps.choose(torch.device("cuda"))
    assert type(chosen) is FusedOps
    assert "Triton can't be imported" in str(chosen)


def test_kernels_that_do_not_work_here_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device, *, has_fp8: bool) -> FusedOps:
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


def test_8_bit_weights_widened_are_what_they_stand_for() -> None:
    small = Fp8Linear.of(Linear(draw_logits(40, 64, 5), draw_logits(1, 40, 6)[0]))
    x, wide = draw_logits(6, 64, 7), small.widened(torch.float32)
    torch.testing.assert_close(wide(x), small(x))


def test_8_bit_floats_are_not_for_a_cpu() -> None:
    assert why_no_fp8(CPU) == "8-bit floats are for GPUs, and this is cpu"


@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ((8, 6), "8-bit floats need compute capability 8.9, and this card has 8.6"),
        ((8, 9), None),
        ((12, 0), None),
    ],
)
def test_8_bit_floats_need_a_card_that_has_them(
    capability: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(fp8, "find_fault", lambda device: None)
    assert why_no_fp8(torch.device("cuda:0")) == reason


def test_a_torch_that_cannot_multiply_8_bit_floats_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its product is tried; the CPU's stands for a card's."""

    def product(small: Tensor, weight: Tensor, scale_a: Tensor, scale_b: Tensor, **_: object):
        return ((small.float() * scale_a) @ (weight.float() * scale_b)).bfloat16()

    monkeypatch.setattr(torch, "_scaled_mm", product)
    assert find_fault(CPU) is None
    monkeypatch.setattr(torch, "_scaled_mm", lambda *args, **_: product(*args, **_) * 1.1)
    assert find_fault(CPU) == "products of 8-bit floats come out wrong on this card"

    def refuse(*_: object, **__: object) -> Tensor:
        raise RuntimeError("only for sm90\nat some line")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    reason = find_fault(CPU)
    assert reason is not None and reason.endswith("8-bit floats on this card (only for sm90)")


@pytest.mark.parametrize(
    ("name", "shape", "is_wanted"),
    [
        ("talker.model.layers.3.mlp.gate_proj", (3072, 1024), True),
        ("thinker.model.layers.0.mlp.down_proj.weight", (1024, 3072), True),
        ("talker.model.layers.3.mlp.gate_proj", (3072, 1000), False),
        ("talker.model.layers.3.self_attn.q_proj", (1024, 1024), False),
        ("talker.code_predictor.model.layers.3.mlp.gate_proj", (3072, 1024), False),
        ("talker.codec_head", (3072, 1024), False),
    ],
)
def test_feed_forwards_alone_are_rounded(
    name: str, shape: tuple[int, int], is_wanted: bool
) -> None:
    assert becomes_fp8(name, shape) is is_wanted
