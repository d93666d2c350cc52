"""Characters to tokens, and the batch discount that calibrates itself; arithmetic and nothing else.

A batch costs less than its texts one by one, because it takes less time. How much less is learnt:
the time a character takes alone is averaged over single requests, and each batch is compared to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

DISCOUNT_DIGITS = 5  # kept
PRICED_DIGITS = 3  # charged and shown
PRICED_STEPS = 1000


@dataclass(frozen=True, slots=True)
class DiscountRule:
    """The four settings BATCH_DISCOUNT_DEFAULT, _MIN, _MAX and _EWMA_ALPHA."""

    start: float = 0.90
    lowest: float = 0.60
    highest: float = 1.00
    alpha: float = 0.10

    def clamp(self, discount: float) -> float:
        return min(max(discount, self.lowest), self.highest)

    def average(self, old: float, new: float) -> float:
        """The exponentially weighted moving average after one more value."""
        return (1 - self.alpha) * old + self.alpha * new


@dataclass(frozen=True, slots=True)
class DiscountState:
    """What has been learnt so far, one for all users and voices; None: nothing yet."""

    single_ms_per_char: float | None = None
    discount: float | None = None


def count_tokens(text: str) -> int:
    """The price of one text: code points, without white space at both ends."""
    return len(text.strip())


def learn_from_single(
    state: DiscountState, *, latency_ms: float, num_chars: int, rule: DiscountRule
) -> DiscountState:
    """After one single request; the first one sets the average."""
    if latency_ms <= 0 or num_chars <= 0:
        return state
    seen, old = latency_ms / num_chars, state.single_ms_per_char
    return DiscountState(seen if old is None else rule.average(old, seen), state.discount)


def learn_from_batch(
    state: DiscountState, *, latency_ms: float, num_chars: int, rule: DiscountRule
) -> DiscountState:
    """After one batch and before it is charged; without a single request to compare, no change."""
    if state.single_ms_per_char is None or latency_ms <= 0 or num_chars <= 0:
        return state
    share = rule.clamp(latency_ms / (state.single_ms_per_char * num_chars))
    discount = rule.clamp(rule.average(current_discount(state, rule), share))
    return DiscountState(state.single_ms_per_char, round(discount, DISCOUNT_DIGITS))


def current_discount(state: DiscountState, rule: DiscountRule) -> float:
    """The factor on a batch's price, within the limits even if they were set tighter since."""
    return rule.clamp(rule.start if state.discount is None else state.discount)


def priced_discount(discount: float) -> float:
    """The factor as it is charged and shown."""
    return round(discount, PRICED_DIGITS)


def batch_tokens(num_chars: int, discount: float) -> int:
    """The price of a whole batch, rounded down.

    In whole thousandths, because 100 * 0.57 is below 57 in binary fractions.
    """
    thousandths = round(discount * PRICED_STEPS)
    return num_chars * thousandths // PRICED_STEPS


def split_tokens(total: int, num_chars: Sequence[int]) -> list[int]:
    """A batch's price on its texts in proportion to their length; adds up to `total` exactly."""
    whole = sum(num_chars)
    if whole == 0:
        return [0] * len(num_chars)
    shares = [total * chars // whole for chars in num_chars]
    remainders = [total * chars % whole for chars in num_chars]
    by_remainder = sorted(range(len(shares)), key=lambda index: -remainders[index])
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares
