"""The Triton kernels in Triton's interpreter: test_triton.py runs this file by itself.

The interpreter has to be asked for before triton is imported for the first time.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qwen3_audio.engine.sampling import RowSettings, choose, draw_keys
from qwen3_audio.kernels.fused import triton_attention, triton_products, triton_sampler
from qwen3_audio.kernels.fused.fp8 import Fp8Linear
from qwen3_audio.kernels.fused.ops import FusedOps, NoTriton
from qwen3_audio.kernels.fused.shapes import HeadNorms, LayerCache, Places, RopeTable, SampleRows
from qwen3_audio.kernels.fused.trials import Trials, TrialSizes
from qwen3_audio.kernels.fused.triton_ops import TritonOps
from qwen3_audio.models.linear import Linear

CPU = torch.device("cpu")
# Odd sizes on purpose: nothing fills a block, and a group has three heads.
ODD = TrialSizes(
    width=72,
    inner=21,
    num_heads=6,
    num_kv_heads=2,
    head_dim=20,
    num_frame_positions=9,
    vocab=100,
    large_vocab=130,
)
EVEN = replace(ODD, num_heads=4, head_dim=32, width=64, inner=24, lengths=(64, 1))
OPS = TritonOps()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large vocabulary need not be large."""
    monkeypatch.setattr(triton_sampler, "MOST_IN_REGISTERS", 128)
    monkeypatch.setattr(triton_sampler, "_BLOCK", 64)


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (torch.float32, ODD),
        (torch.bfloat16, EVEN),
        pytest.param(torch.float32, EVEN, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, ODD, marks=pytest.mark.slow),
    ],
    ids=["float32", "bfloat16", "float32 even", "bfloat16 odd"],
)
def test_every_kernel_equals_its_twin(dtype: torch.dtype, sizes: TrialSizes) -> None:
    assert Trials(OPS, CPU, dtype, sizes, has_fp8=True).differing() == []


def test_a_wrong_kernel_is_found_out() -> None:
    class Wrong(TritonOps):
        max_few_rows = 0

        def silu_mul(self, gate_up: Tensor) -> Tensor:
            return super().silu_mul(gate_up) * 1.01

        def attend(self, q: Tensor, cache: LayerCache, places: Places) -> Tensor:
            return super().attend(q, cache, places) * torch.nan

    sizes = replace(EVEN, vocab=8, large_vocab=9)
    assert Trials(Wrong(), CPU, torch.float32, sizes).differing() == [
        "SiLU (by 1.0e-02)",
        "attention (by nan)",
    ]


def test_kernels_that_cannot_be_made_are_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(trials: Trials) -> list[str]:
        raise RuntimeError("no C compiler\nand a long story")

    monkeypatch.setattr(Trials, "differing", fail)
    with pytest.raises(NoTriton, match=r"^Triton can't make its kernels here \(no C compiler\)$"):
        TritonOps.open(CPU)


def test_kernels_that_come_out_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "differing", lambda trials: ["SiLU", "product", "product"])
    with pytest.raises(NoTriton, match=r"^Triton's SiLU and product came out wrong here$"):
        TritonOps.open(CPU)


def test_kernels_that_work_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "differing", lambda trials: [])
    assert str(TritonOps.open(CPU, has_fp8=True)) == "Triton kernels"
    assert str(TritonOps.open(CPU)) == "Triton kernels"


@pytest.mark.parametrize("programs", [1, 8, 64])
def test_attention_is_the_same_however_its_pages_are_shared_out(
    programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_attention, "PROGRAMS_WANTED", programs)
    generator = torch.Generator().manual_seed(2)
    cache = LayerCache(*(torch.randn(7, 2, 32, 20, generator=generator) for _ in range(2)))
    lengths, pages = torch.tensor([97, 0]), torch.tensor([[3, 0, 6, 1], [0, 0, 0, 0]])
    q, places = torch.randn(2, 6, 20, generator=generator), Places(lengths, lengths, pages)
    expected = FusedOps().attend(q, cache, places)
    assert torch.equal(expected[1], torch.zeros(120))
    torch.testing.assert_close(OPS.attend(q, cache, places), expected, atol=1e-5, rtol=1e-5)


def test_padding_writes_no_keys() -> None:
    cache = LayerCache(torch.zeros(2, 2, 32, 20), torch.zeros(2, 2, 32, 20))
    norms = HeadNorms(torch.ones(20), torch.ones(20), 1e-6)
    rope = RopeTable(torch.ones(64, 20), torch.zeros(64, 20))
    places = Places(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64),
                    torch.tensor([[0], [1]]))  # fmt: skip
    OPS.place(torch.ones(2, 200), norms, rope, cache, places)
    assert not cache.k.any() and not cache.v.any()


@pytest.mark.parametrize("num_groups", [1, 5, 16])
def test_keys_are_those_of_the_engine(num_groups: int) -> None:
    """Numbers of all sizes, negative ones among them, from rows of a larger table."""
    generator = torch.Generator().manual_seed(6)
    table = torch.randint(-(1 << 63), (1 << 63) - 1, (2, 40), generator=generator)
    table[:, :3] = torch.tensor([[0, 1, -1], [0, 1 << 40, 7]])
    drawn = OPS.draw_keys(table[0], table[1], num_groups)
    assert torch.equal(drawn, draw_keys(table[0], table[1], num_groups))
    strided = OPS.draw_keys(table.t()[:, 0], table.t()[:, 1], num_groups)
    assert torch.equal(strided, drawn)


FEW = [(0.0, 0, 0.5), (0.9, 5, 1.0), (0.3, 0, 1.0), (1.7, 0, 0.5), (0.9, 50, 0.95), (0.9, 3, 0.0)]
MANY = [
    (heat, top_k, top_p)
    for heat in (0.0, 0.3, 1.7)
    for top_k in (0, 1, 5, 50)
    for top_p in (0.0, 0.5, 0.95, 1.0)
]


@pytest.mark.parametrize(
    ("size", "most_in_registers", "mixed"),
    [
        (3, 128, MANY),
        (70, 128, MANY),
        (130, 0, FEW),
        pytest.param(3, 0, MANY, marks=pytest.mark.slow),
        pytest.param(130, 0, MANY, marks=pytest.mark.slow),
    ],
    ids=["three ids", "at once", "in pieces", "three ids in pieces", "many in pieces"],
)
def test_ids_are_those_of_the_plain_choice(
    size: int,
    most_in_registers: int,
    mixed: list[tuple[float, int, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_sampler, "MOST_IN_REGISTERS", most_in_registers)
    num_rows = len(mixed)
    built = RowSettings.build(mixed, size, CPU)
    logits = torch.randn(num_rows, size, generator=torch.Generator().manual_seed(3)) * 3
    keys = draw_keys(torch.arange(num_rows), torch.full((num_rows,), 5), 4)[:, 2]
    rows = SampleRows(built.temperature, built.top_k, built.top_p)
    assert torch.equal(OPS.choose_ids(logits, keys, rows), choose(logits, keys, built))
    logits = logits.bfloat16().mul(2).round().div(2)  # many are equal
    twins = FusedOps().choose_ids(logits, keys, rows)
    assert torch.equal(OPS.choose_ids(logits, keys, rows), twins)


@pytest.mark.parametrize("most_in_registers", [0, 128], ids=["in pieces", "at once"])
def test_of_equal_logits_the_least_ids_stay(
    most_in_registers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the edge of top-k and of top-p, which four of 70 ids hold."""
    monkeypatch.setattr(triton_sampler, "MOST_IN_REGISTERS", most_in_registers)
    num_rows = 6
    logits = torch.zeros(num_rows, 70)
    keys = draw_keys(torch.arange(num_rows), torch.full((num_rows,), 5), 1)[:, 0]
    for setting in ((1.0, 4, 1.0), (1.0, 0, 3.5 / 70), (1.0, 35, 3.5 / 35)):
        built = RowSettings.build([setting] * num_rows, 70, CPU)
        rows = SampleRows(built.temperature, built.top_k, built.top_p)
        chosen = OPS.choose_ids(logits, keys, rows)
        assert chosen.max() < 4 and len(set(chosen.tolist())) > 1
        assert torch.equal(chosen, FusedOps().choose_ids(logits, keys, rows))


def test_few_rows_meet_8_bit_weights() -> None:
    generator = torch.Generator().manual_seed(4)
    small = Fp8Linear.of(Linear(torch.randn(150, 72, generator=generator)))
    x, norm = torch.randn(2, 72, generator=generator), torch.randn(72, generator=generator)
    expected = FusedOps().product_act(x, small, norm, 1e-6)
    got = OPS.product_act(x, small, norm, 1e-6)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


def test_a_product_is_the_same_in_one_piece_and_in_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_products, "_BLOCK_IN", 32)
    generator = torch.Generator().manual_seed(5)
    x, norm = torch.randn(3, 72, generator=generator), torch.randn(72, generator=generator)
    linear = Linear(torch.randn(13, 72, generator=generator))
    expected = FusedOps().product(x, linear, norm, 1e-6)
    torch.testing.assert_close(OPS.product(x, linear, norm, 1e-6), expected, atol=1e-4, rtol=1e-4)
