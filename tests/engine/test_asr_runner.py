"""The recognition runner on a small random checkpoint, stepped by hand."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listening_runs import Hearing, draw_sound, hear, hearing_of, run
from torch import Tensor

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.asr import PieceText
from qwen3_audio.engine.asr_prompt import TextStream
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.loading import ListeningModel, load_listening
from qwen3_audio.settings import Settings
from qwen3_audio.types import EndReason

NUM_SLOTS = 3


@pytest.fixture(scope="module")
def model(tiny_asr: Path) -> ListeningModel:
    settings = Settings.from_env({"MAX_RUNNING": str(NUM_SLOTS)})
    device = Device(torch.device("cpu"), torch.float32)
    return load_listening(
        open_checkpoint(tiny_asr / "tiny-asr"), settings, device, lambda *report: None
    )


def mixed_pieces(model: ListeningModel) -> list[Hearing]:
    return [
        hearing_of(model, draw_sound(0.3, 1), max_tokens=9),
        hearing_of(model, draw_sound(2.0, 2), settings=(1.0, 0, 1.0), seed=7),
        hearing_of(model, draw_sound(9.5, 3), language="English", max_tokens=5),
        hearing_of(model, draw_sound(1.0, 4), context="the water", settings=(0.7, 5, 0.9)),
        hearing_of(model, draw_sound(1.0, 5), settings=(2.0, 0, 0.5), seed=2**63 - 1),
    ]


def test_a_piece_alone_and_in_a_busy_batch_are_the_same(model: ListeningModel) -> None:
    alone, busy = mixed_pieces(model), mixed_pieces(model)
    for piece in alone:
        run(model, {0: [piece]})
    run(model, {0: busy[:2], 1: busy[2:3], 4: busy[3:]})
    for one, other in zip(alone, busy, strict=True):
        assert one.seq.token_ids == other.seq.token_ids
        assert one.texts == other.texts
        assert one.end is not None and other.end is not None
        assert one.end.avg_logprob == pytest.approx(other.end.avg_logprob, abs=1e-4)
        exact = replace(other.end, avg_logprob=one.end.avg_logprob)
        assert one.end == exact


def test_with_a_temperature_the_seed_makes_the_difference(model: ListeningModel) -> None:
    sound = draw_sound(1.0)
    one, same, other = (
        hear(model, sound, settings=(1.5, 0, 1.0), seed=seed).seq.token_ids for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_sound_and_context_reach_the_model(model: ListeningModel) -> None:
    answers = [
        hear(model, draw_sound(1.0)),
        hear(model, draw_sound(1.0, 1)),
        hear(model, draw_sound(1.0), context="the water"),
        hear(model, draw_sound(1.0), language="French"),
    ]
    assert len({tuple(answer.seq.token_ids) for answer in answers}) == len(answers)


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_the_limit_of_tokens_is_kept(model: ListeningModel, max_tokens: int) -> None:
    end = hear(model, draw_sound(0.5), max_tokens=max_tokens).end
    assert end is not None
    assert (end.reason, len(end.token_ids)) == (EndReason.LENGTH, max_tokens)


class Script:
    """In place of the head: the next token of the script is certain, whatever was heard."""

    def __init__(self, model: ListeningModel, tokens: Iterable[int]) -> None:
        self._size = len(model.runner.embedding)
        self._tokens = iter(tokens)

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = torch.zeros(len(hidden), self._size)
        logits[:, next(self._tokens)] = 50.0
        return logits


def tokens_of(model: ListeningModel, *parts: str) -> Iterator[int]:
    """Added tokens by their name, everything else as text; then the end of turn."""
    for part in parts:
        if part.startswith("<"):
            yield model.tokenizer.special(part)
        else:
            yield from model.tokenizer.encode(part)
    yield model.tokenizer.special("<|im_end|>")


def answer(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch, *parts: str, **settings: Any
) -> Hearing:
    monkeypatch.setattr(model.runner, "head", Script(model, tokens_of(model, *parts)))
    return hear(model, draw_sound(0.5), max_tokens=200, **settings)


def test_the_language_comes_before_the_text_and_all_pieces_make_the_text(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = answer(model, monkeypatch, "language English", "<asr_text>", "the water of life")
    end = heard.end
    assert end is not None
    assert (end.reason, end.language, end.text) == (EndReason.STOP, "English", "the water of life")
    assert heard.texts[0] == PieceText(0, "", "English")
    assert len(heard.texts) > 3
    assert all(text.language == "English" for text in heard.texts)
    assert "".join(text.delta for text in heard.texts) + end.delta == end.text


def test_with_a_forced_language_the_answer_is_all_text(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = answer(model, monkeypatch, "the water", language="German")
    end = heard.end
    assert end is not None
    assert (end.language, end.text) == ("German", "the water")
    assert "".join(text.delta for text in heard.texts) + end.delta == "the water"


def test_half_characters_wait_for_their_other_half(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = answer(model, monkeypatch, "language Chinese", "<asr_text>", "水水")
    assert all("\ufffd" not in text.delta for text in heard.texts)
    assert heard.end is not None and heard.end.text == "水水"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, 255) | st.integers(0, 1 << 16), max_size=40))
def test_a_growing_answer_is_what_its_tokens_say_together(
    model: ListeningModel, ids: list[int]
) -> None:
    """Bytes that make no character, control tokens in the middle of one and whole words."""
    size, raws = len(model.runner.embedding), list[str]()
    seq = hearing_of(model, draw_sound(0.5), max_tokens=1000).seq
    seq.stream = Stream(raws)
    for id_ in (number if number < 256 else number % size for number in ids):
        if model.runner._take(seq, id_, 0.0):
            break
        assert raws[-1] == model.tokenizer.decode(seq.token_ids)


class Stream(TextStream):
    """Remembers what it was fed."""

    def __init__(self, raws: list[str]) -> None:
        super().__init__()
        self._raws = raws

    def feed(self, raw: str) -> str:
        self._raws.append(raw)
        return super().feed(raw)


def test_no_speech_is_no_text_and_no_language(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = answer(model, monkeypatch, "language None", "<asr_text>").end
    assert end is not None
    assert (end.reason, end.language, end.text) == (EndReason.STOP, "", "")


def test_an_answer_that_ends_at_once_is_empty(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = answer(model, monkeypatch).end
    assert end is not None
    assert (end.reason, end.token_ids, end.text) == (EndReason.STOP, (), "")


def test_a_pattern_that_comes_twenty_times_ends_the_piece(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ["language English", "<asr_text>", *["the water"] * 60]
    heard = answer(model, monkeypatch, *parts)
    num_pattern = len(model.tokenizer.encode("the water"))
    num_head = len(model.tokenizer.encode("language English")) + 1
    assert heard.end is not None
    assert heard.end.reason is EndReason.LOOP
    assert len(heard.end.token_ids) <= num_head + 20 * num_pattern
    assert heard.end.text == "the water"
    assert "".join(text.delta for text in heard.texts) + heard.end.delta == "the water"


def test_certain_tokens_have_a_logprob_of_zero(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = answer(model, monkeypatch, "language English", "<asr_text>", "the").end
    assert end is not None
    assert end.avg_logprob == pytest.approx(0.0, abs=1e-3)
    monkeypatch.undo()
    unsure = hear(model, draw_sound(0.5), settings=(2.0, 0, 1.0)).end
    assert unsure is not None and unsure.avg_logprob < -0.1


def test_every_end_token_of_the_checkpoint_ends(
    model: ListeningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(model.runner.eos_ids) > 1
    for end_id in model.runner.eos_ids:
        monkeypatch.setattr(model.runner, "head", Script(model, [end_id]))
        end = hear(model, draw_sound(0.5)).end
        assert end is not None and end.reason is EndReason.STOP
