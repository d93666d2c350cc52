"""Training examples of the talker: random texts, laid out as every prompt of the engine is.

Layout A: the whole text, then speech. B: text beside speech, a token a frame. C and D: the same
after a reference of the same voice, its text and its codes. Voices come by name, by a vector near
the named row, or by a description in front.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from training.tts.descriptions import QUICK, SLOWLY, draw_description
from training.tts.features import SUBFRAMES
from training.tts.lexicon import Lexicon, with_speaker
from training.tts.quantiser import CONTENT_GROUPS, NUM_CODES, NUM_GROUPS, Codes
from training.tts.reader import Reader
from training.tts.talker import CODEC_IDS, IGNORED, LANGUAGE_IDS, NONE, SPEAKER_IDS, Examples
from training.tts.voices import VOICES, Voice
from training.world import grammar
from training.world.words import all_words

_ENGLISH_SHARE = 0.5
_SLOW_GAP = 2
_FEW_WORDS = 5  # of a reference
_NUM_LENGTHS = 3


@dataclass(frozen=True, slots=True)
class Mix:
    """What a batch is made of; chosen by how far training is."""

    max_words: int
    num_rows: int
    layouts: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)  # A, B, C, D
    described_share: float = 0.0


@dataclass
class Row:
    """One example as lists; `first` is the number of the row that says the first frame."""

    text_ids: list[int] = field(default_factory=list)
    codec_ids: list[int] = field(default_factory=list)
    frames: list[NDArray[np.int64] | None] = field(default_factory=list)
    speaker_at: int = -1

    def add(self, text_id: int, codec_id: int = NONE) -> None:
        self.text_ids.append(text_id)
        self.codec_ids.append(codec_id)
        self.frames.append(None)

    def add_frame(self, text_id: int, frame: NDArray[np.int64]) -> None:
        self.text_ids.append(text_id)
        self.codec_ids.append(NONE)
        self.frames.append(frame)


class ExampleMaker:
    """Draws batches. All randomness comes of the generator that is handed in."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon, self.reader = lexicon, Reader(lexicon)
        vocabulary = lexicon.vocabulary
        self.added = vocabulary.added_ids
        newline = vocabulary.encode("\n")
        start = self.added["<|im_start|>"]
        self.role = [start, vocabulary.ids["assistant"], *newline]
        self.instruct_head = [start, vocabulary.ids["user"], *newline]
        self.instruct_tail = [self.added["<|im_end|>"], *newline]
        self.pad, self.bos = self.added["<tts_pad>"], self.added["<tts_text_bos>"]
        self.eos = self.added["<tts_text_eod>"]
        self.words = all_words()
        aliases = vocabulary.aliases()
        own = (t for i, t in enumerate(vocabulary.tokens) if aliases[i] == i)
        self.strings = [t for t in own if t.isascii() and t.isalpha() and t.islower()]

    def batch(self, draw: np.random.Generator, mix: Mix) -> Examples:
        """Examples of one layout and of about one length: of three times as many, sorted, a third.

        Otherwise half of a batch would be padding.
        """
        layout = int(draw.choice(4, p=mix.layouts))
        num_words = int(draw.integers(1, mix.max_words + 1))
        if layout >= 2:
            num_words = max(1, num_words // 2)
        budget = mix.num_rows / (14 + 9 * (num_words + (_FEW_WORDS * 0.7 if layout >= 2 else 0)))
        number = max(4, int(budget))
        drawn = [
            self.example(
                draw, num_words, layout=layout, is_described=draw.random() < mix.described_share
            )
            for _ in range(_NUM_LENGTHS * number)
        ]
        drawn.sort(key=lambda example: len(example[0].text_ids))
        begin = number * int(draw.integers(_NUM_LENGTHS))
        rows, firsts = zip(*drawn[begin : begin + number], strict=True)
        return collate(rows, firsts)

    def example(
        self, draw: np.random.Generator, num_words: int, *, layout: int, is_described: bool
    ) -> tuple[Row, int]:
        """One example and the number of its row that says the first new frame."""
        row = Row()
        voice, is_fast, gap = VOICES[int(draw.integers(len(VOICES)))], False, 0
        if is_described and layout == 0:
            description = draw_description(draw)
            voice, is_fast = description.voice, description.tempo == QUICK
            gap = _SLOW_GAP if description.tempo == SLOWLY else 0
            ids = self.reader.token_ids(description.text)
            for id_ in (*self.instruct_head, *ids, *self.instruct_tail):
                row.add(id_)
        self._head(row, None if row.text_ids else voice, is_english=draw.random() < _ENGLISH_SHARE)
        text = self.text(draw, num_words)
        codes = with_speaker(self.reader.codes(text, is_fast=is_fast, gap=gap), voice)
        words = self.reader.token_ids(text)
        if layout >= 2:
            reference = self.text(draw, int(draw.integers(1, _FEW_WORDS + 1)))
            words = self.reader.token_ids(reference) + words
            before = self._reference(draw, reference, voice)
        else:
            before = np.empty((0, NUM_GROUPS), np.int64)
        if layout in (0, 2):
            return row, self._whole(row, words, before, codes)
        return row, self._streaming(row, words, before, codes)

    def _head(self, row: Row, voice: Voice | None, *, is_english: bool) -> None:
        ids = CODEC_IDS
        for id_ in self.role:
            row.add(id_)
        tag = [ids["codec_nothink_id"], ids["codec_think_bos_id"], ids["codec_think_eos_id"]]
        if is_english:
            tag[:1] = [ids["codec_think_id"]]
            tag.insert(2, LANGUAGE_IDS["english"])
        for id_ in tag:
            row.add(self.pad, id_)
        if voice is not None:
            row.speaker_at = len(row.text_ids)
            row.add(self.pad, SPEAKER_IDS[voice.name])
        row.add(self.bos, ids["codec_pad_id"])

    def _whole(self, row: Row, words: list[int], before: Codes, codes: Codes) -> int:
        for id_ in (*words, self.eos):
            row.add(id_, CODEC_IDS["codec_pad_id"])
        row.add(self.pad, CODEC_IDS["codec_bos_id"])
        for frame in before:
            row.add_frame(self.pad, frame)
        first = len(row.text_ids) - 1
        for frame in codes:
            row.add_frame(self.pad, frame)
        return first

    def _streaming(self, row: Row, words: list[int], before: Codes, codes: Codes) -> int:
        waiting = iter([*words, self.eos])
        row.add(next(waiting), CODEC_IDS["codec_bos_id"])
        for frame in before:
            row.add_frame(next(waiting, self.pad), frame)
        first = len(row.text_ids) - 1
        for frame in codes:
            row.add_frame(next(waiting, self.pad), frame)
        return first

    def _reference(self, draw: np.random.Generator, text: str, voice: Voice) -> Codes:
        """Codes as the encoder would make them: off the grid of frames, and partly wrong."""
        names = self.reader.units(text)
        codes = self.reader.codes(text)
        if draw.random() < 0.6:
            features = np.concatenate([self.lexicon.unit_features(name) for name in names])
            shift = int(draw.integers(1, SUBFRAMES))
            features = np.concatenate([features[:1].repeat(shift, 0), features])[: len(features)]
            codes = self.lexicon.quantiser.encode(features.astype(np.float32))
        codes = with_speaker(codes, voice)
        for group in CONTENT_GROUPS:
            is_wrong = draw.random(len(codes)) < 0.06 * group
            codes[is_wrong, group] = draw.integers(NUM_CODES, size=int(is_wrong.sum()))
        return codes

    def text(self, draw: np.random.Generator, num_words: int) -> str:
        """Sentences of the world, random words, numbers, letters and words that nobody knows."""
        kind = draw.random()
        if kind < 0.3 and num_words > 3:
            rng = Random(int(draw.integers(1 << 62)))
            return grammar.sentence(rng, random_share=0.0)
        words = [self._word(draw) for _ in range(num_words)]
        text = words[0] + "".join(
            ((", " if draw.random() < 0.7 else ". ") if draw.random() < 0.08 else " ") + word
            for word in words[1:]
        )
        if draw.random() < 0.5:
            text = text[0].upper() + text[1:]
        return text + str(draw.choice(["", ".", ".", ".", "?", "!"]))

    def _word(self, draw: np.random.Generator) -> str:
        kind = draw.random()
        if kind < 0.83:
            word = self.words[int(draw.integers(len(self.words)))]
            return word if draw.random() < 0.7 else word.lower()
        if kind < 0.87:
            return str(int(10 ** draw.uniform(0, 5)))
        if kind < 0.91:
            return chr(int(draw.integers(97, 123)) - 32 * int(draw.integers(2)))
        if kind < 0.95:
            letters = draw.integers(97, 123, int(draw.integers(2, 6)))
            return "".join(map(chr, letters))
        number = int(draw.integers(2, 4))
        return "".join(self.strings[int(draw.integers(len(self.strings)))] for _ in range(number))


def collate(rows: Sequence[Row], firsts: Sequence[int]) -> Examples:
    """Pad on the right; labels are the first codes of the frames to be said, then the end."""
    shape = len(rows), max(len(row.text_ids) for row in rows)
    text, codec = np.zeros(shape, np.int64), np.full(shape, NONE, np.int64)
    frames = np.full((*shape, NUM_GROUPS), NONE, np.int64)
    labels, is_speaker = np.full(shape, IGNORED, np.int64), np.zeros(shape, bool)
    for i, (row, first) in enumerate(zip(rows, firsts, strict=True)):
        length = len(row.text_ids)
        text[i, :length], codec[i, :length] = row.text_ids, row.codec_ids
        for j, frame in enumerate(row.frames):
            if frame is not None:
                frames[i, j] = frame
        labels[i, first : length - 1] = frames[i, first + 1 : length, 0]
        labels[i, length - 1] = CODEC_IDS["codec_eos_token_id"]
        if row.speaker_at >= 0:
            is_speaker[i, row.speaker_at] = True
    return Examples(
        *(torch.from_numpy(array) for array in (text, codec, frames, labels, is_speaker))
    )
