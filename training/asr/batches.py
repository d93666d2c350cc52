"""Clips → one batch: log-mels of one length, prompt, labels, and what each audio token hears."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from qwen3_audio.engine.tokenizer import TextTokenizer
from training.asr.augment import DYNAMIC_RANGE, FLOOR, augment, noise_bank
from training.asr.clips import UNKNOWN, UNKNOWN_WORD, Clip, Shard
from training.asr.model import CHUNK_FRAMES, CHUNK_TOKENS, num_tokens
from training.world.words import plain_words

IGNORED = -100  # a label that costs nothing
MOST_FRAMES = 3060
NO_SPEECH_SHARE = 0.05
CONTEXT_SHARE = 0.1  # of batches, with words in the system turn
_MARGINS = (0, 5, 10, 20, 40, 60)  # frames of silence around the longest clip
_LONG_MARGIN_SHARE = 0.08
_TOKEN_FRAMES, _BESIDE = 8, 2  # a token's distance; where its phonemes are asked for
_END_ROWS, _MANY_END_ROWS = 6, 64


@dataclass(frozen=True, slots=True)
class Batch:
    mels: Tensor  # [B, T, 128]
    before: Tensor  # ids in front of the sound [P]
    after: Tensor  # ids between the sound and the answer [Q]
    answer: Tensor  # ids [B, L]; the labels too: behind the end stands <|endoftext|> for ever
    phonemes: Tensor  # [B, N, 2]: shortly before and behind each token's middle
    words: Tensor  # [B, N]
    num_spoken: int  # tokens of answers without their padding

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.mels.to(device),
            self.before.to(device),
            self.after.to(device),
            self.answer.to(device),
            self.phonemes.to(device),
            self.words.to(device),
            self.num_spoken,
        )


class Batcher:
    """Makes batches of clips; knows the tokenizer and the sounds in which nobody speaks."""

    def __init__(self, tokenizer: TextTokenizer, sounds: Shard, rng: Random) -> None:
        self._tokenizer, self._sounds, self._rng = tokenizer, sounds, rng
        self._noises = noise_bank()
        special, text = tokenizer.special, tokenizer.encode
        start, self._end, tag = (
            special(name) for name in ("<|im_start|>", "<|im_end|>", "<asr_text>")
        )
        self._forever = special("<|endoftext|>")
        self._before = [start, *text("system\n")]
        self._user = [self._end, *text("\n"), start, *text("user\n"), special("<|audio_start|>")]
        after = [special("<|audio_end|>"), self._end, *text("\n"), start, *text("assistant\n")]
        self._after = torch.tensor(after)
        self._english, self._none = [*text("language English"), tag], [*text("language None"), tag]

    def build(self, clips: Sequence[Clip], *, many_ends: bool = False) -> Batch:
        num_frames = self._num_frames(clips)
        clips = [self._silenced(clip, num_frames) for clip in clips]
        mels = torch.full((len(clips), num_frames, clips[0].mel.shape[1]), FLOOR)
        phonemes = torch.zeros(len(clips), num_frames, dtype=torch.long)
        words = torch.zeros(len(clips), num_frames, dtype=torch.long)
        for row, clip in enumerate(clips):
            at = self._rng.randrange(num_frames - clip.num_frames + 1)
            span = slice(at, at + clip.num_frames)
            mel = torch.from_numpy(clip.mel.astype(np.float32))
            mels[row] = max(float(mel.max()) - DYNAMIC_RANGE, FLOOR)
            mels[row, span] = mel
            phonemes[row, span] = torch.from_numpy(clip.phonemes.astype(np.int64))
            words[row, span] = torch.from_numpy(clip.words.astype(np.int64))
        phonemes[phonemes == UNKNOWN] = IGNORED
        words[words == UNKNOWN_WORD] = IGNORED
        is_speech = torch.tensor([bool(clip.text) for clip in clips])
        answers = [self._answer(clip) for clip in clips]
        return Batch(
            mels=augment(mels, is_speech, self._noises, self._rng),
            before=torch.tensor([*self._before, *self._context(), *self._user]),
            after=self._after,
            answer=self._padded(answers, _MANY_END_ROWS if many_ends else _END_ROWS),
            phonemes=torch.stack(
                [_at_tokens(phonemes, -_BESIDE), _at_tokens(phonemes, _BESIDE)], -1
            ),
            words=_at_tokens(words, 0),
            num_spoken=sum(map(len, answers)),
        )

    def _num_frames(self, clips: Sequence[Clip]) -> int:
        longest = max(clip.num_frames for clip in clips)
        margin = self._rng.choice(_MARGINS) + self._rng.randrange(8)
        if self._rng.random() < _LONG_MARGIN_SHARE:
            margin += self._rng.randrange(100, 300)
        return max(longest, min(longest + margin, MOST_FRAMES))

    def _silenced(self, clip: Clip, num_frames: int) -> Clip:
        """The clip, or now and then a piece of sound in which nobody speaks instead."""
        if self._rng.random() >= NO_SPEECH_SHARE:
            return clip
        sound = self._sounds.clip(self._rng.randrange(len(self._sounds)))
        length = min(num_frames, sound.num_frames)
        at = self._rng.randrange(sound.num_frames - length + 1)
        part = slice(at, at + length)
        return Clip(sound.mel[part], sound.phonemes[part], sound.words[part], "")

    def _answer(self, clip: Clip) -> list[int]:
        if not clip.text:
            return [*self._none, self._end]
        return [*self._english, *self._tokenizer.encode(clip.text), self._end]

    def _context(self) -> list[int]:
        if self._rng.random() >= CONTEXT_SHARE:
            return []
        words = [self._rng.choice(plain_words()) for _ in range(self._rng.randrange(1, 7))]
        return self._tokenizer.encode(" ".join(words))

    def _padded(self, answers: list[list[int]], num_ends: int) -> Tensor:
        """The official generate() has other end ids built in and runs on: it must find nothing."""
        length = max(map(len, answers)) + num_ends
        padded = torch.full((len(answers), length), self._forever)
        for row, ids in zip(padded, answers, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return padded


def _at_tokens(labels: Tensor, shift: int) -> Tensor:
    """Labels of frames [B, T] → of audio tokens [B, N], at the middle of each."""
    numbers = torch.arange(num_tokens(labels.shape[1]))
    frames = CHUNK_FRAMES * (numbers // CHUNK_TOKENS) + _TOKEN_FRAMES * (numbers % CHUNK_TOKENS)
    return labels[:, (frames + shift).clamp(0, labels.shape[1] - 1)]
