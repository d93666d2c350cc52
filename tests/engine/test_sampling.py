"""Numbers against an unsigned twin, choices against a slow reference of the official order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from qwen3_audio.engine.sampling import RowSettings, choose, draw_keys, draw_uniforms, penalise

CPU = torch.device("cpu")
MAX_SEED = 2**63 - 1
Row = tuple[float, int, float]  # temperature, top_k, top_p


def splitmix_finish(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def twin_keys(seed: int, step: int, num_groups: int) -> NDArray[np.uint64]:
    """The same keys in numpy's own unsigned arithmetic."""
    counters = np.arange(step * num_groups + 1, (step + 1) * num_groups + 1, dtype=np.uint64)
    start = splitmix_finish(np.array([seed], np.uint64))
    return splitmix_finish(start + counters * np.uint64(0x9E3779B97F4A7C15))


def twin_uniforms(key: np.uint64, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    counters = (ids + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = splitmix_finish(key + counters) >> np.uint64(41)
    return (bits.astype(np.float32) + np.float32(0.5)) / np.float32(2**23)


def slow_probabilities(logits: Tensor, row: Row) -> NDArray[np.float64]:
    """Temperature, then top-k, then top-p, as the official generate() orders them."""
    temperature, top_k, top_p = row
    values = logits.double().numpy() / temperature
    order = np.argsort(-values, kind="stable")
    if top_k > 0:
        values[order[top_k:]] = -np.inf
    probabilities = np.exp(values - values.max())
    probabilities /= probabilities.sum()
    kept = 0.0
    for rank, id_ in enumerate(order):
        if top_p < 1 and rank > 0 and kept >= top_p:
            probabilities[id_] = 0.0
        else:
            kept += probabilities[id_]
    return probabilities / probabilities.sum()


def draw_logits(num_rows: int, size: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(num_rows, size, generator=torch.Generator().manual_seed(seed)) * scale


@given(st.integers(0, MAX_SEED), st.integers(0, 100_000), st.integers(1, 32))
def test_keys_and_numbers_are_those_of_splitmix64(seed: int, step: int, num_groups: int) -> None:
    keys = draw_keys(torch.tensor([seed]), torch.tensor([step]), num_groups)
    twins = twin_keys(seed, step, num_groups)
    assert np.array_equal(keys[0].numpy().view(np.uint64), twins)
    ids = np.array([0, 1, 7, 151_935])
    numbers = draw_uniforms(keys[:, 0], torch.from_numpy(ids)[None])
    assert numbers.dtype == torch.float32
    assert np.array_equal(numbers[0].numpy(), twin_uniforms(twins[0], ids))


def test_keys_do_not_depend_on_the_rest_of_the_batch() -> None:
    seeds, steps = torch.tensor([5, 5, MAX_SEED, 0]), torch.tensor([0, 1, 7, 7])
    batch = draw_keys(seeds, steps, 16)
    for row in range(4):
        alone = draw_keys(seeds[row : row + 1], steps[row : row + 1], 16)
        assert torch.equal(batch[row : row + 1], alone)


def test_numbers_are_evenly_spread_and_never_zero_or_one() -> None:
    """Over seeds, over steps, over groups and over ids; chi-square, 99 degrees of freedom."""
    zeros, many = torch.zeros(20_000, dtype=torch.int64), torch.arange(20_000)
    one_id = zeros[:, None]
    all_numbers = (
        draw_uniforms(draw_keys(many, zeros, 1)[:, 0], one_id),
        draw_uniforms(draw_keys(zeros + 42, many, 1)[:, 0], one_id),
        draw_uniforms(draw_keys(zeros[:1] + 7, zeros[:1] + 3, 20_000)[0], one_id),
        draw_uniforms(draw_keys(zeros[:1] + 7, zeros[:1] + 3, 1)[:, 0], many[None]),
    )
    for numbers in all_numbers:
        assert float(numbers.min()) > 0.0 and float(numbers.max()) < 1.0
        counts = np.histogram(numbers.numpy(), bins=100, range=(0, 1))[0]
        assert float(((counts - 200) ** 2 / 200).sum()) < 160


def test_neighbouring_seeds_and_steps_share_no_keys() -> None:
    seeds = torch.arange(50).repeat_interleave(50)
    steps = torch.arange(50).repeat(50)
    keys = draw_keys(seeds, steps, 16).flatten()
    assert len(keys) == len(set(keys.tolist()))


@pytest.mark.parametrize(
    "row",
    [
        (1.0, 0, 1.0),
        (0.9, 50, 1.0),
        (0.7, 5, 1.0),
        (1.3, 0, 0.8),
        (0.8, 20, 0.5),
        (2.0, 3, 0.9),
        (0.9, 1, 1.0),
        (1.0, 0, 1e-6),
    ],
)
def test_choices_follow_the_slow_reference(row: Row) -> None:
    """20,000 draws; chi-square over all ids that are expected five times."""
    num_draws, size = 20_000, 60
    logits = draw_logits(1, size, seed=3, scale=2.0)
    expected = slow_probabilities(logits[0], row) * num_draws
    keys = draw_keys(torch.arange(num_draws), torch.zeros(num_draws, dtype=torch.int64), 1)[:, 0]
    settings_ = RowSettings.build([row] * num_draws, size, CPU)
    chosen = choose(logits.expand(num_draws, -1), keys, settings_)
    counts = np.bincount(chosen.numpy(), minlength=size)
    assert not counts[expected == 0].any()
    often = expected >= 5
    chi_square = float((((counts - expected) ** 2)[often] / expected[often]).sum())
    assert chi_square < often.sum() + 5 * np.sqrt(2 * often.sum())


rows = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.05, 2.0)),
        st.one_of(st.just(0), st.just(5000), st.integers(1, 80)),
        st.one_of(st.just(1.0), st.floats(0.05, 1.0)),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(rows, st.integers(0, 1000))
def test_a_row_chooses_the_same_alone_and_in_any_batch(mixed: list[Row], seed: int) -> None:
    logits = draw_logits(len(mixed), 200, seed)
    keys = draw_keys(torch.arange(len(mixed)) + seed, torch.full((len(mixed),), 9), 1)[:, 0]
    batch = choose(logits, keys, RowSettings.build(mixed, 200, CPU))
    for at, row in enumerate(mixed):
        part = slice(at, at + 1)
        alone = choose(logits[part], keys[part], RowSettings.build([row], 200, CPU))
        assert int(alone) == int(batch[at])


@settings(deadline=None)
@given(rows, st.integers(0, 1000))
def test_nothing_that_was_cut_off_is_ever_chosen(mixed: list[Row], seed: int) -> None:
    logits = draw_logits(len(mixed), 200, seed)
    for step in range(3):
        steps = torch.full((len(mixed),), step)
        keys = draw_keys(torch.arange(len(mixed)) + seed, steps, 1)[:, 0]
        chosen = choose(logits, keys, RowSettings.build(mixed, 200, CPU))
        for at, row in enumerate(mixed):
            if row[0] == 0:
                assert int(chosen[at]) == int(logits[at].argmax())
                continue
            # float32 may put the edge of top-p one id further than float64 does.
            is_edge = row[2] < 1 and abs(row[2] - _mass(logits[at], row)) < 1e-5
            assert slow_probabilities(logits[at], row)[int(chosen[at])] > 0 or is_edge


def test_every_id_up_to_top_k_is_chosen_in_a_mixed_batch_and_none_beyond() -> None:
    mixed = [(1.0, 3, 1.0), (1.0, 10, 1.0), (1.0, 1, 1.0), (1.0, 0, 1.0)] * 500
    logits = torch.linspace(1.0, 0.0, 40).expand(len(mixed), -1)
    keys = draw_keys(torch.arange(len(mixed)), torch.zeros(len(mixed), dtype=torch.int64), 1)
    chosen = choose(logits, keys[:, 0], RowSettings.build(mixed, 40, CPU)).view(-1, 4)
    for column, top_k in enumerate((3, 10, 1, 40)):
        assert set(chosen[:, column].tolist()) == set(range(top_k))


def _mass(logits: Tensor, row: Row) -> float:
    """Probability before top-p of what top-p keeps."""
    whole = slow_probabilities(logits, (row[0], row[1], 1.0))
    return float(whole[slow_probabilities(logits, row) > 0].sum())


def test_temperature_zero_is_the_maximum_whatever_the_rest_says() -> None:
    logits = draw_logits(3, 100)
    keys = torch.tensor([0, 5, -9])
    mixed = [(0.0, 0, 1.0), (0.0, 50, 0.3), (0.0, 1, 1.0)]
    chosen = choose(logits, keys, RowSettings.build(mixed, 100, CPU))
    assert torch.equal(chosen, logits.argmax(-1))


def test_a_last_bit_of_a_logit_hardly_ever_changes_a_choice() -> None:
    """Products of another batch size differ in the last bits; 20,000 draws must not care."""
    logits = draw_logits(20_000, 50)
    shaken = logits * (1 + 2e-7 * draw_logits(20_000, 50, seed=1, scale=1.0))
    keys = draw_keys(torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64), 1)[:, 0]
    settings_ = RowSettings.build([(0.9, 50, 1.0)] * 20_000, 50, CPU)
    num_changed = int((choose(logits, keys, settings_) != choose(shaken, keys, settings_)).sum())
    assert num_changed == 0


@pytest.mark.parametrize("temperature", [1e-44, 1e-38, 1e-20, 1e-5])
def test_the_smallest_temperatures_are_greedy_and_break_nothing(temperature: float) -> None:
    logits = draw_logits(2, 50)
    mixed = [(temperature, 0, 1.0), (1.0, 0, 1.0)]
    chosen = choose(logits, torch.tensor([9, 0]), RowSettings.build(mixed, 50, CPU))
    assert int(chosen[0]) == int(logits[0].argmax())
    assert 0 <= int(chosen[1]) < 50


def test_a_row_that_is_no_number_leaves_the_others_alone() -> None:
    logits = draw_logits(2, 50)
    spoilt = logits.clone()
    spoilt[0] = torch.nan
    mixed = RowSettings.build([(0.9, 50, 0.9), (0.9, 50, 0.9)], 50, CPU)
    keys = torch.tensor([7, 7])
    chosen = choose(spoilt, keys, mixed)
    assert 0 <= int(chosen[0]) < 50
    assert int(chosen[1]) == int(choose(logits, keys, mixed)[1])


def test_banned_ids_are_never_chosen_even_if_top_k_reaches_them() -> None:
    logits = draw_logits(100, 30)
    logits[:, 5:] = -torch.inf
    keys = draw_keys(torch.arange(100), torch.zeros(100, dtype=torch.int64), 1)[:, 0]
    chosen = choose(logits, keys, RowSettings.build([(1.5, 0, 1.0)] * 100, 30, CPU))
    assert int(chosen.max()) < 5


def test_settings_of_a_batch_sort_no_more_than_its_rows_need() -> None:
    built = RowSettings.build([(0.0, 50, 1.0), (0.9, 7, 1.0), (0.0, 0, 1.0)], 100, CPU)
    assert built.max_top_k == 7
    assert built.top_k.tolist() == [50, 7, 100]
    assert RowSettings.build([(0.9, 5000, 1.0)], 100, CPU).max_top_k == 100


def test_the_penalty_is_for_seen_ids_only_and_always_lowers() -> None:
    logits = torch.tensor([[2.0, -2.0, 0.0, 2.0]])
    seen = torch.tensor([[True, True, True, False]])
    got = penalise(logits, seen, 1.25)
    assert torch.allclose(got, torch.tensor([[1.6, -2.5, 0.0, 2.0]]))
    assert torch.equal(penalise(logits, seen, 1.0), logits)
