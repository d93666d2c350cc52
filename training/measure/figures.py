"""What many answers come to: words, ends, lengths."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from training.asr.wordcount import word_error_rate
from training.measure.asking import Spoken
from training.measure.plan import Json
from training.measure.sound import duration_s
from training.world.words import normalise

_NUM_SHOWN = 6  # wrong answers that are kept for reading


def ends_of(spoken: Sequence[Spoken]) -> Json:
    """How they ended, and how much sound there is."""
    return {
        "texts": len(spoken),
        "ended": sum(one.is_ended for one in spoken),
        "reasons": dict(Counter(one.reason for one in spoken)),
        "sound_s": round(sum(duration_s(one.wav) for one in spoken), 1),
    }


def words_of(said: Sequence[str], heard: Sequence[str]) -> Json:
    """Word error rate, and some of what was heard otherwise than said."""
    pairs = list(zip(said, heard, strict=True))
    wrong = [pair for pair in pairs if normalise(pair[0]) != normalise(pair[1])]
    return {
        "wer": round(word_error_rate(said, heard), 4),
        "exact": round(1 - len(wrong) / len(pairs), 4),
        "wrong": [{"said": said, "heard": heard} for said, heard in wrong[:_NUM_SHOWN]],
    }


def pooled_wer(rows: Iterable[Json]) -> float:
    """Over rows of the same texts, or nearly as many words."""
    return round(float(np.mean([row["wer"] for row in rows])), 4)


def count_ends(rows: Iterable[Json]) -> Json:
    """All requests of some rows: how many there were and how many ended by themselves."""
    some = list(rows)
    return {key: sum(row[key] for row in some) for key in ("texts", "ended")}


def follows(wanted: Sequence[float | None], got: Sequence[float | None]) -> float | None:
    """How closely one column goes with another, -1 to 1, by ratios; None without two points."""
    pairs = [(one, two) for one, two in zip(wanted, got, strict=True) if one and two]
    if len(pairs) < 3:
        return None
    first, second = np.log2(np.array(pairs)).T
    if first.std() == 0 or second.std() == 0:
        return None
    return round(float(np.corrcoef(first, second)[0, 1]), 3)
