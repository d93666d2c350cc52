"""The clips to draw batches from: shards on disk, some made ahead, more made while training runs.

Old shards go when there are too many, so that the model hears new sentences in new voices as long
as it learns. Everything is seeded by the number of its shard.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from training.asr.clips import Clip, Shard, training_clips, without_speech, write_shard
from training.run import say
from training.world.espeak import Espeak

SHARD_CLIPS = {"short": 2000, "long": 300}
FIRST_SHARDS = {"short": 4, "long": 1}
MOST_SHARDS = {"short": 24, "long": 10}
_SEEDS = {"short": 1_000, "long": 500_000}
_NUM_SOUNDS, _SOUND_S = 400, 20.0


class Pool:
    """Shards of one kind of clip in a folder, and the one that is being made."""

    def __init__(self, folder: Path, kind: str, espeak: Espeak) -> None:
        self.kind, self._folder, self._espeak = kind, folder, espeak
        self.shards = sorted(
            (Shard(path.with_suffix(".npy")) for path in folder.glob(f"{kind}-*.json")),
            key=lambda shard: shard.path.name,
        )
        newest = self.shards[-1].path.stem.rpartition("-")[2] if self.shards else "-1"
        self._begin(int(newest) + 1)
        self._index: list[tuple[float, int, int]] = []

    def _begin(self, number: int) -> None:
        self._number, self._made = number, list[Clip]()
        self._clips = training_clips(self._espeak, _SEEDS[self.kind] + number, self.kind)

    def make(self, num_clips: int) -> None:
        """Render so many new clips; a full shard is written and takes part from then on."""
        for _ in range(num_clips):
            self._made.append(next(self._clips))
        if len(self._made) >= SHARD_CLIPS[self.kind]:
            path = self._folder / f"{self.kind}-{self._number:04d}.npy"
            self.shards.append(write_shard(path, self._made))
            if len(self.shards) > MOST_SHARDS[self.kind]:
                self.shards.pop(0).delete()
            self._begin(self._number + 1)
            self._index = []

    def fill(self) -> None:
        """Make the shards that training begins with."""
        while len(self.shards) < FIRST_SHARDS[self.kind]:
            self.make(SHARD_CLIPS[self.kind] - len(self._made))
            say(f"  {self.kind} clips: shard {len(self.shards)} of {FIRST_SHARDS[self.kind]}")

    def draw(self, rng: Random, max_frames: int) -> list[Clip]:
        """Clips of about the same length whose frames, padded, are about `max_frames`."""
        if not self._index:
            self._index = sorted(
                (shard.num_frames(number) + rng.uniform(0, 25), at, number)
                for at, shard in enumerate(self.shards)
                for number in range(len(shard))
            )
        first = rng.randrange(len(self._index))
        chosen: list[Clip] = []
        for _, at, number in self._index[first:]:
            clip = self.shards[at].clip(number)
            if chosen and (len(chosen) + 1) * (clip.num_frames + 35) > max_frames:
                break
            chosen.append(clip)
        return chosen


def sounds_without_speech(folder: Path) -> Shard:
    """Silence, noises and music to cut pieces from; made once."""
    path = folder / "sounds.npy"
    if path.with_suffix(".json").exists():
        return Shard(path)
    rng = np.random.default_rng(77)
    return write_shard(path, [without_speech(rng, _SOUND_S) for _ in range(_NUM_SOUNDS)])


def draw_some(clips: Sequence[Clip], rng: Random, max_frames: int) -> list[Clip]:
    """Like Pool.draw, from clips in memory."""
    first = rng.choice(clips)
    near = [clip for clip in clips if abs(clip.num_frames - first.num_frames) < 60]
    longest = max(clip.num_frames for clip in near)
    return [rng.choice(near) for _ in range(max(max_frames // (longest + 35), 1))]
