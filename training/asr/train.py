"""The training run: what the schedule does when, saving, going on, and fine-tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from qwen3_audio.engine.tokenizer import TextTokenizer
from training.asr.batches import Batcher
from training.asr.checkpoint import write_weights
from training.asr.clips import Clip
from training.asr.learner import Learner
from training.asr.pool import Pool, draw_some, sounds_without_speech
from training.run import SAVE_EVERY_S, ActiveTime, Progress, choose_device, load_state, save_state
from training.world.espeak import Espeak

FRAMES = {"cpu": 8_000, "cuda": 64_000}  # of one batch, padding included
FRESH_CLIPS = 4  # rendered in every step, if there is a processor for it
REPORT_EVERY = 100  # steps
EVALUATE_EVERY_S = 420.0
LONG_FROM = 2 / 3  # of the schedule: clips of up to 30 s, and answers that end for longer
LONG_SHARE = 0.5
TUNING_RATE = 5e-4
EXTRA_SHARE = 0.15  # of the batches, where there are clips of another voice; twice when fine-tuning


@dataclass(frozen=True, slots=True)
class Phase:
    """What one step of the schedule is like."""

    with_text: bool
    help_weight: float
    long_share: float
    many_ends_share: float


def phase_at(share: float, *, is_tuning: bool = False) -> Phase:
    """The tower alone first; help fades; long clips in the last third."""
    if is_tuning:
        return Phase(True, 0.0, LONG_SHARE, 0.15)
    is_late = share >= LONG_FROM
    help_weight = 1.0 if share < 0.3 else 0.4 if share < 0.6 else 0.0
    return Phase(
        with_text=share >= 0.03,
        help_weight=help_weight,
        long_share=LONG_SHARE if is_late else 0.0,
        many_ends_share=0.15 if is_late else 0.05,
    )


class Training:
    """One run in a work folder, which holds the state it goes on from."""

    def __init__(
        self,
        work: Path,
        checkpoint: Path,
        espeak: Espeak,
        *,
        budget_s: float,
        extra: Sequence[Clip] = (),
        tuned_from: Path | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._extra, self._is_tuning = extra, tuned_from is not None
        cache = work / "clips"
        self._short, self._long = (Pool(cache, kind, espeak) for kind in ("short", "long"))
        self._rng = Random(0)
        sounds = sounds_without_speech(cache)
        self._batcher = Batcher(TextTokenizer(checkpoint), sounds, self._rng)
        self._learner = Learner(choose_device())
        self._time = ActiveTime(budget_s)
        name = "tuning" if self._is_tuning else "training"
        self._state_path = work / f"{name}.pt"
        self._progress = Progress(work / f"{name}.jsonl")
        self._num_clips = 0
        self._begin(tuned_from)

    def _begin(self, tuned_from: Path | None) -> None:
        torch.manual_seed(0)
        state = load_state(self._state_path)
        if state is not None:
            self._learner.restore(state["learner"])
            self._time.used_s, self._num_clips = state["used_s"], state["num_clips"]
            self._rng.setstate(state["python_random"])
            torch.set_rng_state(state["torch_random"])
        elif tuned_from is not None:
            trained = load_state(tuned_from)
            if trained is None:
                raise FileNotFoundError(f"{tuned_from} is missing: train before fine-tuning")
            self._learner.restore(trained["learner"], with_optimiser=False)

    def run(self, look: Callable[[Learner], dict[str, float]]) -> Progress:
        """Train until the time is used up; now and then save, and `look` at how well it hears."""
        self._short.fill()
        self._long.fill()
        saved_s = evaluated_s = self._time.used_s
        self._time.restart()
        sums: dict[str, float] = {}
        while not self._time.is_over:
            for name, value in self._step().items():
                sums[name] = sums.get(name, 0.0) + value / REPORT_EVERY
            self._time.tick()
            if self._learner.num_steps % REPORT_EVERY == 0:
                self._report(sums)
                sums = {}
            if self._time.used_s - saved_s > SAVE_EVERY_S or self._time.is_over:
                saved_s = self._time.used_s
                self._save()
            if self._time.used_s - evaluated_s > EVALUATE_EVERY_S:
                evaluated_s = self._time.used_s
                self._save()
                self._report(look(self._learner))
                self._time.tick()
        return self._progress

    def _step(self) -> dict[str, float]:
        share = self._time.share
        phase = phase_at(share, is_tuning=self._is_tuning)
        is_late = phase.long_share > 0
        self._short.make(FRESH_CLIPS // 2 if is_late else FRESH_CLIPS)
        clips = self._draw(phase)
        many_ends = self._rng.random() < phase.many_ends_share
        batch = self._batcher.build(clips, many_ends=many_ends).to(self._learner.device)
        losses = self._learner.losses(
            batch, with_text=phase.with_text, help_weight=phase.help_weight
        )
        peak = {"peak": TUNING_RATE} if self._is_tuning else {}
        norm = self._learner.step(losses, share, **peak)
        self._num_clips += len(clips)
        return {
            "text": losses.text,
            "phoneme": losses.phoneme,
            "word": losses.word,
            "gradient": norm,
        }

    def _draw(self, phase: Phase) -> list[Clip]:
        max_frames = FRAMES[self._learner.device.type]
        if self._extra and self._rng.random() < EXTRA_SHARE * (1 + self._is_tuning):
            return draw_some(self._extra, self._rng, max_frames)
        if self._rng.random() < phase.long_share:
            self._long.make(1)
            return self._long.draw(self._rng, max_frames)
        return self._short.draw(self._rng, max_frames)

    def _report(self, values: dict[str, float]) -> None:
        self._progress.report(
            step=self._learner.num_steps,
            minutes=round(self._time.used_s / 60, 2),
            clips=self._num_clips,
            **values,
        )

    def _save(self) -> None:
        state = {
            "learner": self._learner.state(),
            "used_s": self._time.used_s,
            "num_clips": self._num_clips,
            "python_random": self._rng.getstate(),
            "torch_random": torch.get_rng_state(),
        }
        save_state(self._state_path, state)
        write_weights(self._checkpoint, self._learner.model_weights())
