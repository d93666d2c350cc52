"""Features of frames → codes and back: principal components and k-means, no network.

Group 0 holds the commonest sounds, group 1 the speaker alone, the others refine group 0's vector.
Letters in shapes: T frames, G groups, K codes of a group, P components, Z = P + 4 latents.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.tts.features import NUM_FEATURES, SUBFRAMES, VOICING_SCALE, Array

NUM_GROUPS, NUM_CODES = 6, 512
NUM_COMPONENTS, NUM_SPEAKER_DIMS = 60, 4
NUM_LATENTS = NUM_COMPONENTS + NUM_SPEAKER_DIMS
SPEAKER_GROUP = 1
CONTENT_GROUPS = (0, *range(SPEAKER_GROUP + 1, NUM_GROUPS))
UNUSED = 1e3  # rows of the speaker table that stand for nobody: never the nearest
_KMEANS_ROUNDS = 12
_FRAME_FEATURES = SUBFRAMES * NUM_FEATURES

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Quantiser:
    """Mean and components of a frame's features, and one table for each group."""

    mean: Array  # [256]
    components: Array  # [256, P], scaled so that components have unit variance together
    inverse: Array  # [P, 256]
    tables: Array  # [G, K, Z]

    def latents(self, features: Array) -> Array:
        """Features [8T, F] → [T, P]."""
        frames = features.reshape(-1, _FRAME_FEATURES)
        return np.asarray((frames - self.mean) @ self.components, np.float32)

    def encode(self, features: Array, *, speaker: int = 0) -> Codes:
        """Features [8T, F] → codes [T, G]."""
        return self.encode_latents(self.latents(features), speaker=speaker)

    def encode_latents(self, latents: Array, *, speaker: int = 0) -> Codes:
        codes = np.empty((len(latents), NUM_GROUPS), np.int64)
        codes[:, 0] = nearest(latents, self.tables[0, :, :NUM_COMPONENTS])
        codes[:, SPEAKER_GROUP] = speaker
        rest = latents
        for group in CONTENT_GROUPS[1:]:
            table = self.tables[group, :, :NUM_COMPONENTS]
            codes[:, group] = nearest(rest, table)
            rest = rest - table[codes[:, group]]
        return codes

    def decode(self, codes: Codes) -> Array:
        """Codes [T, G] → features [8T, F], by the refining groups alone."""
        latents = sum(self.tables[g][codes[:, g], :NUM_COMPONENTS] for g in CONTENT_GROUPS[1:])
        features = np.asarray(latents @ self.inverse + self.mean, np.float32)
        features = features.reshape(-1, NUM_FEATURES)
        features[:, -2:] = features[:, -2:].clip(0, VOICING_SCALE)
        return features

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in self.__slots_of__()})

    @classmethod
    def load(cls, path: Path) -> "Quantiser":
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in cls.__slots_of__()})

    @staticmethod
    def __slots_of__() -> tuple[str, ...]:
        return "mean", "components", "inverse", "tables"


def fit_quantiser(features: Array, speaker_points: Array) -> Quantiser:
    """From the features of all units [8T, F] and a place for each speaker [speakers, 4]."""
    frames = features.reshape(-1, _FRAME_FEATURES)
    mean = frames.mean(0)
    centred = frames - mean
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    vectors = vectors[:, ::-1][:, :NUM_COMPONENTS]
    scale = float((centred @ vectors).std())
    latents = (centred @ vectors / scale).astype(np.float32)
    tables = np.zeros((NUM_GROUPS, NUM_CODES, NUM_LATENTS), np.float32)
    tables[0, :, :NUM_COMPONENTS] = kmeans(latents, NUM_CODES, seed=1)
    tables[SPEAKER_GROUP, :, NUM_COMPONENTS:] = UNUSED
    tables[SPEAKER_GROUP, : len(speaker_points), NUM_COMPONENTS:] = speaker_points
    rest = latents
    for group in CONTENT_GROUPS[1:]:
        table = kmeans(rest, NUM_CODES, seed=group)
        tables[group, :, :NUM_COMPONENTS] = table
        rest = rest - table[nearest(rest, table)]
    inverse = vectors.T * scale
    return Quantiser(
        mean.astype(np.float32),
        (vectors / scale).astype(np.float32),
        inverse.astype(np.float32),
        tables,
    )


def nearest(points: Array, table: Array) -> Codes:
    """The row of `table` nearest to each point."""
    return np.asarray((-2 * points @ table.T + (table * table).sum(1)).argmin(1))


def kmeans(points: Array, num_rows: int, *, seed: int) -> Array:
    """Lloyd's rounds; a row without points is put on the worst served one."""
    draw = np.random.default_rng(seed)
    rows = points[draw.choice(len(points), num_rows, replace=len(points) < num_rows)].copy()
    for _ in range(_KMEANS_ROUNDS):
        chosen = nearest(points, rows)
        counts = np.bincount(chosen, minlength=num_rows)
        sums = np.zeros_like(rows)
        np.add.at(sums, chosen, points)
        is_used = counts > 0
        rows[is_used] = sums[is_used] / counts[is_used, None]
        if not is_used.all():
            errors = ((points - rows[chosen]) ** 2).sum(1)
            worst = np.resize(np.argsort(-errors), int((~is_used).sum()))
            rows[~is_used] = points[worst]
    return rows
