"""The learner learns, forgets nothing when it goes on, and is judged by what it answers."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from made_clips import made_clip, random_clip

from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.random_weights.asr_configs import AsrSize, DecoderSize, EncoderSize
from qwen3_audio.types import EndReason, Transcript
from training.asr import evaluate as evaluation
from training.asr import learner as learner_module
from training.asr.batches import Batch, Batcher
from training.asr.checkpoint import learn_vocabulary, write_settings
from training.asr.clips import write_shard
from training.asr.evaluate import judge, missed_bounds
from training.asr.hearing import quick_look
from training.asr.learner import Learner, rate_at
from training.asr.trials import Trial, silent_trials
from training.asr.weights import NUM_TOKENS
from training.asr.wordcount import word_error_rate
from training.run import load_state, save_state

pytestmark = pytest.mark.slow  # of the training, not of the product

SMALL = AsrSize(
    EncoderSize(num_layers=1, width=32, num_heads=2, inner=48, conv_channels=8),
    DecoderSize(num_layers=2, hidden=32, num_heads=2, num_kv_heads=1, head_dim=16, inner=48),
    vocab_size=NUM_TOKENS,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_settings(folder, learn_vocabulary(num_sentences=3000))
    return TextTokenizer(folder)


@pytest.fixture(scope="module")
def batch(tokenizer: TextTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    torch.manual_seed(2)
    silent = write_shard(tmp_path_factory.mktemp("sounds") / "s.npy", [made_clip(["bread"] * 8)])
    clips = [random_clip(Random(seed)) for seed in range(6)]
    return Batcher(tokenizer, silent, Random(2)).build(clips)


def learn(learner: Learner, batch: Batch, num_steps: int) -> list[float]:
    losses = []
    for _ in range(num_steps):
        loss = learner.losses(batch, with_text=True, help_weight=1.0)
        learner.step(loss, 0.1)
        losses.append(loss.text)
    return losses


def test_a_few_steps_make_the_text_likelier(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "WARM_UP_STEPS", 5)
    losses = learn(Learner(CPU, SMALL), batch, 40)
    assert losses[-1] < losses[0] / 2


def test_going_on_from_a_saved_state_is_as_if_nothing_had_happened(
    batch: Batch, tmp_path: Path
) -> None:
    unbroken, before = Learner(CPU, SMALL), Learner(CPU, SMALL)
    learn(before, batch, 3)
    save_state(tmp_path / "state.pt", {"learner": before.state()})
    after = Learner(CPU, SMALL, seed=9)
    state = load_state(tmp_path / "state.pt")
    assert state is not None
    after.restore(state["learner"])
    assert learn(unbroken, batch, 6)[3:] == learn(after, batch, 3)
    assert after.num_steps == 6


def test_fine_tuning_takes_the_weights_alone(batch: Batch) -> None:
    trained, tuned = Learner(CPU, SMALL), Learner(CPU, SMALL, seed=9)
    learn(trained, batch, 2)
    tuned.restore(trained.state(), with_optimiser=False)
    assert tuned.num_steps == 0
    for name, master in tuned.masters.items():
        assert torch.equal(master, trained.masters[name])


def test_the_tower_alone_learns_without_the_decoder(batch: Batch) -> None:
    learner = Learner(CPU, SMALL)
    losses = learner.losses(batch, with_text=False, help_weight=1.0)
    learner.step(losses, 0.0)
    assert losses.text == 0 and losses.phoneme > 0 and losses.word > 0


def test_without_help_only_the_text_counts(batch: Batch) -> None:
    losses = Learner(CPU, SMALL).losses(batch, with_text=True, help_weight=0.0)
    assert losses.phoneme == losses.word == 0
    assert float(losses.total.detach()) == pytest.approx(losses.text)


def test_the_checkpoint_holds_no_help() -> None:
    names = set(Learner(CPU, SMALL).model_weights())
    assert names and all(name.startswith("thinker.") for name in names)


def test_the_rate_warms_up_and_falls_to_almost_nothing() -> None:
    assert rate_at(0.0, 3) < rate_at(0.0, 300) == 1.0
    assert rate_at(0.5, 5000) == pytest.approx(0.51)
    assert rate_at(1.0, 5000) == pytest.approx(0.02)


def test_a_look_at_an_untrained_model_finds_errors(tokenizer: TextTokenizer) -> None:
    sound = np.random.default_rng(1).standard_normal(8000).astype(np.float32) / 10
    seen = quick_look(Learner(CPU, SMALL), tokenizer, [Trial(sound, "Good morning.")] * 3)
    assert seen["wer"] > 0.3 and seen["exact"] == 0


def test_word_error_rates_ignore_case_and_punctuation() -> None:
    assert word_error_rate(["Good morning, Tom."], ["good morning tom"]) == 0
    assert word_error_rate(["One two three four."], ["One two tree"]) == 0.5
    assert word_error_rate(["Hello there."], [""]) == 1


def answer(text: str, reason: EndReason = EndReason.STOP) -> Transcript:
    return Transcript(
        text=text,
        language="English",
        duration_s=1.0,
        segments=(),
        num_prompt_tokens=1,
        num_output_tokens=1,
        reason=reason,
    )


def test_a_condition_is_judged_by_words_exact_answers_and_ends() -> None:
    sound = np.zeros(10, np.float32)
    trials = [Trial(sound, "Good morning."), Trial(sound, "Hello world.")]
    row = judge(trials, [answer("Good morning."), answer("Hello", EndReason.LENGTH)])
    assert row["clips"] == 2 and row["wer"] == 0.25
    assert row["exact"] == row["stopped"] == 0.5
    assert row["wrong"] == [{"said": "Hello world.", "heard": "Hello"}]


def test_what_is_worse_than_it_has_to_be_is_said() -> None:
    speech = {name: {"wer": 0.01} for name in evaluation.BOUNDS}
    silent = {"noise": {"empty": 1.0}}
    assert missed_bounds({"speech": speech, "silent": silent}) == []
    speech["trained_voices"]["wer"], silent["noise"]["empty"] = 0.05, 0.9
    assert missed_bounds({"speech": speech, "silent": silent}) == [
        "trained_voices: WER 0.0500, at most 0.03",
        "noise: empty for 0.900 of the clips, should be all",
    ]


def test_clips_without_speech_are_the_same_every_time() -> None:
    first, second = silent_trials(0.05), silent_trials(0.05)
    assert set(first) == {"silence", "noise", "music"}
    for name, trials in first.items():
        assert all(trial.text == "" and len(trial.samples) >= 32_000 for trial in trials)
        assert np.array_equal(trials[1].samples, second[name][1].samples)
