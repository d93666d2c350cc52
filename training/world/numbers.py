"""Numbers, years, times of day and strings of digits, in words."""

from random import Random

from training.world.words import entries

_NAMES = [entry[0] for entry in entries("numbers")]
ONES, TENS = _NAMES[:20], _NAMES[20:28]


def number_words(number: int) -> str:
    """0 to 999,999 in words, British "and" after the hundreds."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f" {ONES[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{ONES[hundreds]} hundred" + (f" and {number_words(rest)}" if rest else "")
    if number < 1_000_000:
        thousands, rest = divmod(number, 1000)
        link = " and " if rest < 100 else " "
        return f"{number_words(thousands)} thousand" + (
            f"{link}{number_words(rest)}" if rest else ""
        )
    raise ValueError(f"{number} is more than 999,999")


def random_number(rng: Random) -> str:
    top = rng.choice([21, 100, 100, 1000, 10_000])
    return number_words(rng.randrange(2, top))


def random_digits(rng: Random) -> str:
    return " ".join(rng.choice(ONES[:10]) for _ in range(rng.randrange(2, 9)))


def random_year(rng: Random) -> str:
    year = rng.randrange(1801, 2050)
    if 2000 <= year < 2010 or year % 100 == 0:
        return number_words(year) if year >= 2000 else f"{number_words(year // 100)} hundred"
    if year % 100 < 10:
        return f"{number_words(year // 100)} hundred and {number_words(year % 100)}"
    return f"{number_words(year // 100)} {number_words(year % 100)}"


def random_clock(rng: Random) -> str:
    hour = number_words(rng.randrange(1, 13))
    minutes = number_words(rng.randrange(10, 60))
    part = rng.choice(["morning", "afternoon", "evening"])
    return rng.choice(
        [f"{hour} {minutes}", f"half past {hour}", f"{hour} in the {part}", f"quarter to {hour}"]
    )
