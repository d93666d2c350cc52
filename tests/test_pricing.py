"""Characters to tokens, and the batch discount."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_audio.pricing import (
    DiscountRule,
    DiscountState,
    batch_tokens,
    count_tokens,
    current_discount,
    learn_from_batch,
    learn_from_single,
    priced_discount,
    split_tokens,
)

RULE = DiscountRule()
LEARNT = DiscountState(single_ms_per_char=10.0)


def test_a_token_is_a_character_of_the_stripped_text() -> None:
    assert count_tokens("  Hello, Zoë 👋\n") == 12
    assert count_tokens(" \n ") == 0


def test_the_observed_series() -> None:
    """Two batches that took less than 60 % of the time of their texts alone."""
    state, shown = LEARNT, []
    for _ in range(2):
        state = learn_from_batch(state, latency_ms=50, num_chars=100, rule=RULE)
        shown.append(priced_discount(current_discount(state, RULE)))
    assert current_discount(DiscountState(), RULE) == 0.9
    assert shown == [0.87, 0.843]


def test_the_discount_is_learnt_before_it_is_charged() -> None:
    state = learn_from_batch(LEARNT, latency_ms=50, num_chars=100, rule=RULE)
    assert batch_tokens(100, current_discount(state, RULE)) == 87


def test_without_a_single_request_the_discount_stays() -> None:
    state = learn_from_batch(DiscountState(), latency_ms=50, num_chars=100, rule=RULE)
    assert current_discount(state, RULE) == 0.9


def test_the_first_single_request_sets_the_average_and_others_move_it() -> None:
    state = learn_from_single(DiscountState(), latency_ms=1000, num_chars=100, rule=RULE)
    assert state.single_ms_per_char == 10
    state = learn_from_single(state, latency_ms=2000, num_chars=100, rule=RULE)
    assert state.single_ms_per_char == pytest.approx(11)
    assert state.discount is None


def test_a_slow_batch_costs_more_up_to_the_full_price() -> None:
    state = LEARNT
    for _ in range(200):
        state = learn_from_batch(state, latency_ms=10**9, num_chars=100, rule=RULE)
    assert current_discount(state, RULE) == pytest.approx(1.0, abs=1e-4)
    assert batch_tokens(123, current_discount(state, RULE)) == 123


def test_five_digits_are_kept_and_three_are_charged() -> None:
    state = learn_from_batch(LEARNT, latency_ms=777.7, num_chars=100, rule=RULE)
    assert state.discount == 0.88777
    assert priced_discount(0.88777) == 0.888
    assert batch_tokens(1000, 0.88777) == 888


def test_a_tighter_limit_holds_for_what_was_learnt_before() -> None:
    assert current_discount(DiscountState(10.0, 0.6), DiscountRule(lowest=0.8)) == 0.8


@pytest.mark.parametrize(("latency_ms", "num_chars"), [(0, 10), (-5, 10), (10, 0), (10, -1)])
def test_impossible_measurements_teach_nothing(latency_ms: int, num_chars: int) -> None:
    for learn in (learn_from_single, learn_from_batch):
        assert learn(LEARNT, latency_ms=latency_ms, num_chars=num_chars, rule=RULE) == LEARNT


@given(st.integers(0, 10**7), st.integers(0, 1000))
def test_a_price_is_the_exact_product_rounded_down(num_chars: int, thousandths: int) -> None:
    exact = Fraction(num_chars * thousandths, 1000)
    assert batch_tokens(num_chars, thousandths / 1000) == exact.numerator // exact.denominator


measurements = st.lists(st.tuples(st.booleans(), st.floats(0.01, 1e9), st.integers(1, 10**6)))


@given(measurements)
def test_the_discount_never_leaves_its_limits(requests: list[tuple[bool, float, int]]) -> None:
    state = DiscountState()
    for is_batch, latency_ms, num_chars in requests:
        learn = learn_from_batch if is_batch else learn_from_single
        state = learn(state, latency_ms=latency_ms, num_chars=num_chars, rule=RULE)
        assert RULE.lowest <= current_discount(state, RULE) <= RULE.highest


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=50), st.floats(0, 1))
def test_shares_add_up_to_the_price_and_none_costs_more_than_alone(
    num_chars: list[int], discount: float
) -> None:
    total = batch_tokens(sum(num_chars), discount)
    shares = split_tokens(total, num_chars)
    assert sum(shares) == total
    assert all(0 <= share <= chars for share, chars in zip(shares, num_chars, strict=True))
