"""The loop that all networks share: a cosine over active time, an average of weights, a state on
disk from which it goes on after a kill.

Active time is processor time here, so neither a pause nor a busy machine uses up the budget.
"""

import copy
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.run import (
    MAX_STEP_S,
    SAVE_EVERY_S,
    Progress,
    choose_device,
    load_state,
    save_state,
)

Losses = dict[str, Tensor]  # "loss" is minimised, the others are only reported
Step = Callable[[np.random.Generator, float], Losses]

_MIN_LR_SHARE = 0.01
_stop = threading.Event()


def stop_soon() -> None:
    """Let the step in progress be the last, then save."""
    _stop.set()


def is_stopping() -> bool:
    return _stop.is_set()


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one network is trained."""

    budget_s: float
    learning_rate: float
    num_warm_steps: int = 50
    max_norm: float = 1.0
    weight_decay: float = 0.0
    average_decay: float = 0.999
    report_every: int = 50
    seed: int = 7


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


class Trainer:
    """One network, its optimiser, the average of its weights, and how long it was trained."""

    def __init__(self, work: Path, name: str, model: nn.Module, schedule: Schedule) -> None:
        self.path, self.name, self.schedule = work / f"{name}.pt", name, schedule
        self.model = model.to(choose_device())
        self.progress = Progress(work / f"{name}.jsonl")
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            trained,
            lr=schedule.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.num_steps = 0
        self.used_s = 0.0
        self._resume()

    def _resume(self) -> None:
        state = load_state(self.path)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.num_steps, self.used_s = state["num_steps"], state["used_s"]

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "num_steps": self.num_steps,
            "used_s": self.used_s,
        }
        save_state(self.path, state)

    @property
    def share(self) -> float:
        """How much of the budget is used, 0 to 1."""
        budget_s = self.schedule.budget_s
        return min(self.used_s / budget_s, 1.0) if budget_s > 0 else 1.0

    def run(self, step: Step, *, slice_s: float = math.inf) -> bool:
        """Train for a slice of active time; True once the whole budget is used."""
        until_s = min(self.used_s + slice_s, self.schedule.budget_s)
        saved_s, sums = self.used_s, dict[str, list[float]]()
        self.model.train()
        while self.used_s < until_s and not is_stopping():
            began_s = time.process_time()
            for key, value in self._step(step).items():
                sums.setdefault(key, []).append(float(value))
            self.used_s += min(time.process_time() - began_s, MAX_STEP_S)
            if self.num_steps % self.schedule.report_every == 0:
                self._report(sums)
            if self.used_s - saved_s > SAVE_EVERY_S:
                saved_s = self.used_s
                self.save()
        if sums:
            self._report(sums)
        self.save()
        return self.share >= 1.0

    def _step(self, step: Step) -> Losses:
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        draw = np.random.default_rng((self.schedule.seed, self.num_steps))
        torch.manual_seed(self.schedule.seed + self.num_steps)
        losses = step(draw, self.share)
        self.optimiser.zero_grad()
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        trained = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, self.schedule.max_norm)
        self.optimiser.step()
        self.num_steps += 1
        self._move_average()
        return {key: value.detach() for key, value in losses.items()} | {"norm": norm.detach()}

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.num_steps + 1) / self.schedule.num_warm_steps)
        cosine = 0.5 + 0.5 * math.cos(math.pi * self.share)
        share = _MIN_LR_SHARE + (1 - _MIN_LR_SHARE) * cosine
        return self.schedule.learning_rate * warm * share

    def _move_average(self) -> None:
        decay = min(self.schedule.average_decay, (1 + self.num_steps) / (10 + self.num_steps))
        averages: list[Tensor] = []
        latest: list[Tensor] = []
        for average, parameter in zip(
            self.average.parameters(), self.model.parameters(), strict=True
        ):
            if parameter.requires_grad:
                averages.append(average)
                latest.append(parameter.detach())
        torch._foreach_lerp_(averages, latest, 1 - decay)

    def _report(self, sums: dict[str, list[float]]) -> None:
        means = {key: float(np.mean(values)) for key, values in sums.items()}
        sums.clear()
        self.progress.report(
            stage=self.name, step=self.num_steps, active_s=round(self.used_s), **means
        )
