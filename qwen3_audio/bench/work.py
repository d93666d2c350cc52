"""What is asked for: the same words, the same sounds, the same lengths. Needs numpy alone.

A server's users never say the same twice, and servers keep what they have heard: every recording
differs from the one before in a few samples.
"""

import math
import struct

import numpy as np
from numpy.typing import NDArray

TEXT = "The quick brown fox jumps over the lazy dog near the river."  # 12 words
NUM_FRAMES = 60  # of that sentence, forced: 4.8 s
FRAME_S = 0.08
CLIP_S, CLIP_RATE_HZ = 10, 16_000
TOKENS_PER_S = 3.3  # of recorded speech
LANGUAGE_TOKENS = 2  # that the model says before the words
MAX_PIECE_S = 28.0  # long recordings are cut at their quietest places; ours are made to fit
QUIET_S = 0.4
WAV_HEADER_BYTES = 44
NUM_MARKS, MARK_LEVEL = 24, 33  # samples at the beginning of a recording, of 32,767
FIRST_SOUND_S = FRAME_S  # of sound that a player waits for

Sound = NDArray[np.float32]


def make_sound(seconds: float, rate_hz: int) -> Sound:
    """A wavering tone in noise, three syllables a second; the same in every environment."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(t))
    tone = 0.3 * np.sin(2 * np.pi * 180 * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    return (tone + 0.02 * noise).astype(np.float32)


def count_pieces(seconds: float) -> int:
    """Into how many a server that takes 30 s at once cuts a recording of ours."""
    return 1 if seconds <= MAX_PIECE_S else math.ceil(seconds / MAX_PIECE_S)


def count_tokens(seconds: float) -> int:
    """Of each piece of a recording: 35 for 10 s, and 22 times 90 for 10 minutes."""
    num_pieces = count_pieces(seconds)
    spoken = round(TOKENS_PER_S * seconds / num_pieces)
    return spoken + LANGUAGE_TOKENS if num_pieces == 1 else spoken


def make_recording(seconds: float, rate_hz: int = CLIP_RATE_HZ) -> Sound:
    """A sound with pauses where it is to be cut, all pieces equally long."""
    samples = make_sound(seconds, rate_hz)
    num_pieces, half = count_pieces(seconds), round(QUIET_S * rate_hz / 2)
    for number in range(1, num_pieces):
        middle = round(number * len(samples) / num_pieces)
        samples[middle - half : middle + half] = 0
    return samples


def mark(wav: bytes, number: int) -> bytes:
    """The same recording to the ear, and another one to whoever compares bytes."""
    bits = [number >> i & 1 for i in range(NUM_MARKS)]
    marks = b"".join(struct.pack("<h", MARK_LEVEL * bit) for bit in bits)
    return wav[:WAV_HEADER_BYTES] + marks + wav[WAV_HEADER_BYTES + len(marks) :]
