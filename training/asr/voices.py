"""Which of espeak-ng's voices are trained on, and how they speak."""

from random import Random

from training.world.espeak import Style

AMERICAN, BRITISH = "en-us", "en"
_VARIANTS_TEXT = "m1 m2 m3 m4 m5 m7 m8 f1 f2 f4 f5"
VARIANTS = tuple(_VARIANTS_TEXT.split())
_NAMED_TEXT = (
    "Alex Alicia Andrea Andy Denis Diogo Gene Hugo Jacky Lee Marco Mario Michael Mike Nguyen Storm "
    "adam anika antonio aunty belinda benjamin boris caleb david ed edward grandma grandpa iven "
    "john linda max michel miguel norbert pablo paul pedro quincy rob robert sandro steph travis "
    "victor zac klatt klatt2 klatt4"
)
NAMED = tuple(_NAMED_TEXT.split())
_ACCENTS_TEXT = "en-gb-x-rp en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd en-us-nyc en-029"
ACCENTS = tuple(_ACCENTS_TEXT.split())
NEVER_TRAINED = ("m6", "f3", "Annie")  # evaluation alone hears these


def training_style(rng: Random) -> Style:
    """A voice and a manner: an eighth speaks as espeak does by default, some without melody."""
    kind = rng.random()
    if kind < 0.12:
        return Style(rng.choice([AMERICAN, BRITISH]))
    base = rng.choice([AMERICAN, AMERICAN, BRITISH])
    if kind < 0.55:
        voice = f"{base}+{rng.choice(VARIANTS)}"
    elif kind < 0.75:
        voice = f"{base}+{rng.choice(NAMED)}"
    elif kind < 0.9:
        voice = rng.choice(ACCENTS) + rng.choice(["", f"+{rng.choice(VARIANTS)}"])
    else:
        voice = base
    return manner(rng, voice)


def manner(rng: Random, voice: str) -> Style:
    is_flat = rng.random() < 0.1
    return Style(
        voice=voice,
        words_per_minute=rng.randrange(125, 226),
        pitch=rng.randrange(20, 86),
        pitch_range=0 if is_flat else rng.randrange(20, 86),
        word_gap=rng.randrange(1, 9) if rng.random() < 0.12 else 0,
    )


def trained_style(rng: Random) -> Style:
    """For evaluation: the two plain voices and their variants, as in training."""
    base = rng.choice([AMERICAN, BRITISH])
    return manner(rng, base + rng.choice(["", *(f"+{name}" for name in VARIANTS)]))
