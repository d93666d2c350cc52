"""The nine names of the published models, each a pitch and a length of the vocal tract.

A pitch period divides half a frame (960 samples), so that a word sounds the same wherever it
stands; `warp` moves the formants up (a shorter tract, a brighter voice) or down.
"""

from dataclasses import dataclass

SAMPLE_RATE_HZ = 24_000


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker: `row` is its code in the second group, which carries nothing else."""

    name: str
    row: int
    period: int  # samples
    warp: float
    is_male: bool

    @property
    def pitch_hz(self) -> float:
        return SAMPLE_RATE_HZ / self.period


VOICES = (
    Voice("ryan", 0, 240, 1.00, True),
    Voice("vivian", 1, 120, 1.13, False),
    Voice("serena", 2, 120, 1.06, False),
    Voice("uncle_fu", 3, 240, 0.95, True),
    Voice("dylan", 4, 160, 1.08, True),
    Voice("eric", 5, 240, 1.07, True),
    Voice("aiden", 6, 160, 1.00, True),
    Voice("ono_anna", 7, 96, 1.13, False),
    Voice("sohee", 8, 96, 1.06, False),
)
VOICES_BY_NAME = {voice.name: voice for voice in VOICES}
