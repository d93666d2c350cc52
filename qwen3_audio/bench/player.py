"""A simulated player: it begins with the first frame's worth of sound and never waits by choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from qwen3_audio.bench.sample import Arrival
from qwen3_audio.bench.work import FIRST_SOUND_S

TOLERANCE_S = 1e-6  # of clocks and sums


@dataclass(frozen=True, slots=True)
class Playback:
    """How listening went; times from the moment that the request was due."""

    first_sound_s: float  # until there were 80 ms of sound, or all of it
    num_underruns: int
    stalled_s: float  # silence between the first sound and the last
    gaps_s: tuple[float, ...]  # between one arrival and the next

    def is_gap_free(self, budget_s: float) -> bool:
        """Whether a player that begins this much later never runs dry."""
        return self.stalled_s <= budget_s + TOLERANCE_S


def play(arrivals: Sequence[Arrival], planned_s: float) -> Playback:
    """Of one answer with at least one arrival."""
    buffered_s, first = 0.0, len(arrivals) - 1
    for index, arrival in enumerate(arrivals):
        buffered_s += arrival.audio_s
        if buffered_s >= FIRST_SOUND_S - TOLERANCE_S:
            first = index
            break
    begin_s = arrivals[first].at_s
    dry_s, num_underruns, stalled_s = begin_s + buffered_s, 0, 0.0
    for arrival in arrivals[first + 1 :]:
        if arrival.at_s > dry_s + TOLERANCE_S:
            num_underruns += 1
            stalled_s += arrival.at_s - dry_s
            dry_s = arrival.at_s
        dry_s += arrival.audio_s
    gaps = [after.at_s - before.at_s for before, after in pairwise(arrivals)]
    return Playback(begin_s - planned_s, num_underruns, stalled_s, tuple(gaps))
