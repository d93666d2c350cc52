"""The rows that the talker is trained on are those that the engine makes of a request."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen3_audio.engine.prompts import Prompt, PromptBuilder
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.models.configs import TalkerConfig
from qwen3_audio.types import ModelKind, SpeechRequest, VoicePrompt
from training.tts.assemble import checkpoint_config
from training.tts.examples import ExampleMaker, Mix, Row, collate
from training.tts.lexicon import Lexicon, with_speaker
from training.tts.talker import CODEC_IDS, IGNORED, NONE, SPEAKER_IDS
from training.tts.vocabulary import write_vocabulary
from training.tts.voices import VOICES_BY_NAME

pytestmark = pytest.mark.slow  # of the training, not of the product

TEXT, REFERENCE = "Hello world, it's xq.", "one two three"
RYAN = VOICES_BY_NAME["ryan"]


@pytest.fixture(scope="module")
def builder(lexicon: Lexicon, tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    folder: Path = tmp_path_factory.mktemp("prompts")
    write_vocabulary(folder, lexicon.vocabulary)
    config = TalkerConfig.from_json(checkpoint_config(lexicon, "custom_voice"))
    return PromptBuilder(config, TextTokenizer(folder))


def request(**fields: object) -> SpeechRequest:
    plain = SpeechRequest(ModelKind.CUSTOM_VOICE, TEXT, seed=0, language="English")
    return replace(plain, **fields)  # type: ignore[arg-type]


def trained(lexicon: Lexicon, *, layout: int, is_vector: bool = False) -> tuple[Row, int]:
    maker = ExampleMaker(lexicon)
    row = Row()
    maker._head(row, RYAN, is_english=True)
    before = with_speaker(maker.reader.codes(REFERENCE), RYAN)
    words = maker.reader.token_ids(TEXT)
    codes = with_speaker(maker.reader.codes(TEXT), RYAN)
    if layout >= 2:
        words = maker.reader.token_ids(REFERENCE) + words
    else:
        before = before[:0]
    lay_out = maker._whole if layout in (0, 2) else maker._streaming
    first = lay_out(row, words, before, codes)
    if is_vector:
        row.codec_ids[row.speaker_at] = NONE
    return row, first


def check(lexicon: Lexicon, prompt: Prompt, row: Row, first: int) -> None:
    aliases = lexicon.vocabulary.aliases()
    text_ids = [aliases[one.text_id] for one in prompt.rows]
    assert text_ids == row.text_ids[: first + 1]
    assert [one.codec_id for one in prompt.rows] == row.codec_ids[: first + 1]
    padding = [lexicon.vocabulary.added_ids["<tts_pad>"]] * len(row.text_ids)
    later = [aliases[id_] for id_ in prompt.trailing] + padding
    following = row.text_ids[first + 1 :]
    assert following == later[: len(following)]


@pytest.mark.parametrize("layout", [0, 1])
def test_named_voices_are_laid_out_as_the_engine_does(
    lexicon: Lexicon, builder: PromptBuilder, layout: int
) -> None:
    prompt = builder.build(request(speaker="ryan"), is_streaming_text=layout == 1)
    check(lexicon, prompt, *trained(lexicon, layout=layout))


@pytest.mark.parametrize("layout", [0, 1, 2, 3])
def test_cloned_voices_are_laid_out_as_the_engine_does(
    lexicon: Lexicon, builder: PromptBuilder, layout: int
) -> None:
    codes = ExampleMaker(lexicon).reader.codes(REFERENCE).astype(np.int16)
    vector = np.zeros(builder.config.stack.hidden_size, np.float32)
    voice = VoicePrompt(vector)
    if layout >= 2:
        voice = VoicePrompt(vector, codes, REFERENCE)
    prompt = builder.build(request(voice_prompt=voice), is_streaming_text=layout in (1, 3))
    row, first = trained(lexicon, layout=layout, is_vector=True)
    check(lexicon, prompt, row, first)
    assert prompt.vector_row == row.speaker_at
    if layout >= 2:
        assert prompt.reference_row == first - len(codes) + 1


def test_labels_are_the_frames_that_follow_and_then_the_end(lexicon: Lexicon) -> None:
    row, first = trained(lexicon, layout=2)
    batch = collate([row, row], [first, first])
    labels = batch.labels[0]
    said = labels[labels != IGNORED]
    codes = ExampleMaker(lexicon).reader.codes(TEXT)
    assert said.tolist() == [*codes[:, 0].tolist(), CODEC_IDS["codec_eos_token_id"]]
    assert int((labels != IGNORED).nonzero()[0]) == first


@pytest.mark.parametrize("layout", [0, 1, 2, 3])
def test_batches_of_every_layout_are_drawn_alike_from_the_same_seed(
    lexicon: Lexicon, layout: int
) -> None:
    maker = ExampleMaker(lexicon)
    maker.words = tuple(word for word in maker.words if f"word {word.lower()}" in lexicon.numbers)
    shares = tuple(float(i == layout) for i in range(4))
    mix = Mix(3, 300, shares, 0.5)  # type: ignore[arg-type]
    first, second = (maker.batch(np.random.default_rng(4), mix) for _ in range(2))
    assert torch.equal(first.text_ids, second.text_ids)
    assert torch.equal(first.frames, second.frames)
    assert ((first.labels >= 0).sum(1) >= 3).all()


def test_described_voices_have_no_row_of_a_speaker(lexicon: Lexicon) -> None:
    maker = ExampleMaker(lexicon)
    for number in range(10):
        draw = np.random.default_rng(number)
        row, _ = maker.example(draw, 1, layout=0, is_described=True)
        assert not set(row.codec_ids) & {*SPEAKER_IDS.values()}
        assert row.text_ids[:2] == maker.instruct_head[:2]
