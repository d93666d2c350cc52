"""What is learnt and how: the weights with their optimiser, and the losses of a batch."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen3_audio.random_weights.asr_configs import AsrSize
from training.asr.batches import IGNORED, Batch
from training.asr.clips import NUM_PHONEMES, word_numbers
from training.asr.model import decode, embed, encode, logits
from training.asr.weights import POCKET, draw_weights

LEARNING_RATE = 2e-3
LAST_RATE = 0.02  # of it, at the end of the cosine
WARM_UP_STEPS = 300
WEIGHT_DECAY = 0.03
GRADIENT_NORM = 1.0
MIDDLE = 2  # the decoder layer behind which each audio token should know its word
_PHONEME_WEIGHT, _TOWER_WORD_WEIGHT, _WORD_WEIGHT = 0.5, 0.25, 0.5


@dataclass(frozen=True, slots=True)
class Losses:
    total: Tensor
    text: float
    phoneme: float
    word: float


class Learner:
    """Weights in float32 and, where the machine multiplies those faster, a bfloat16 copy."""

    def __init__(self, device: torch.device, size: AsrSize = POCKET, *, seed: int = 0) -> None:
        self.size, self.device = size, device
        self.masters = {**draw_weights(size, seed=seed), **_draw_heads(size, seed)}
        self.masters = {name: tensor.to(device) for name, tensor in self.masters.items()}
        self.dtype = torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32
        self.weights = {
            name: tensor.to(self.dtype, copy=True).requires_grad_(True)
            for name, tensor in self.masters.items()
        }
        matrices = [tensor for tensor in self.masters.values() if tensor.ndim >= 2]
        vectors = [tensor for tensor in self.masters.values() if tensor.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), foreach=True)
        self.num_steps = 0

    def step(self, losses: Losses, share: float, peak: float = LEARNING_RATE) -> float:
        """Backward and one update at this share of the schedule; returns the gradients' norm."""
        torch.autograd.backward(losses.total)
        touched = []
        for name, master in self.masters.items():
            gradient = self.weights[name].grad
            master.grad = None if gradient is None else gradient.float()
            self.weights[name].grad = None
            if gradient is not None:
                touched.append(master)
        norm = float(torch.nn.utils.clip_grad_norm_(touched, GRADIENT_NORM))
        self.num_steps += 1
        for group in self.optimiser.param_groups:
            group["lr"] = peak * rate_at(share, self.num_steps)
        self.optimiser.step()
        self._copy()
        return norm

    def _copy(self) -> None:
        with torch.no_grad():
            copies = [weight.data for weight in self.weights.values()]
            torch._foreach_copy_(copies, list(self.masters.values()))

    def model_weights(self) -> dict[str, Tensor]:
        """Those that belong into the checkpoint."""
        return {name: t for name, t in self.masters.items() if name.startswith("thinker.")}

    def state(self) -> dict[str, object]:
        optimiser = self.optimiser.state_dict()
        return {"masters": self.masters, "optimiser": optimiser, "num_steps": self.num_steps}

    def restore(self, state: dict[str, object], *, with_optimiser: bool = True) -> None:
        """Go on from a state; without its optimiser it is a beginning with good weights."""
        masters = state["masters"]
        assert isinstance(masters, dict)
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(masters[name])
        self._copy()
        if with_optimiser:
            self.optimiser.load_state_dict(state["optimiser"])  # type: ignore[arg-type]
            self.num_steps = int(state["num_steps"])  # type: ignore[call-overload]

    def losses(self, batch: Batch, *, with_text: bool, help_weight: float) -> Losses:
        """Cross-entropies of the text and, weighted by `help_weight`, of phonemes and words.

        The tower itself has to know words only while the help counts fully.
        """
        sound = encode(self.weights, self.size, batch.mels.to(self.dtype))
        total = torch.zeros((), device=self.device)
        phoneme = word = torch.zeros(())
        if help_weight:
            phoneme = self._phoneme_loss(sound, batch.phonemes)
            total = help_weight * _PHONEME_WEIGHT * phoneme
        if help_weight == 1:
            word = self._word_loss("help.tower_word", sound, batch.words)
            total = total + _TOWER_WORD_WEIGHT * word
        if not with_text:
            return Losses(total, 0.0, float(phoneme.detach()), float(word.detach()))
        text, middle = self._text_loss(sound, batch)
        total = total + text
        if help_weight:
            word = self._word_loss("help.word", middle, batch.words)
            total = total + help_weight * _WORD_WEIGHT * word
        return Losses(total, *(float(part.detach()) for part in (text, phoneme, word)))

    def _text_loss(self, sound: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss for each spoken token, and the stream at the audio positions in the middle."""
        clips = len(sound)
        before = embed(self.weights, batch.before).expand(clips, -1, -1)
        after = embed(self.weights, batch.after).expand(clips, -1, -1)
        answer = embed(self.weights, batch.answer[:, :-1])
        stream = torch.cat([before, sound, after, answer], 1)
        hidden, middle = decode(self.weights, self.size, stream, MIDDLE)
        guesses = logits(self.weights, hidden[:, -batch.answer.shape[1] :]).flatten(0, 1)
        text = F.cross_entropy(guesses, batch.answer.flatten(), reduction="sum")
        start = before.shape[1]
        return text / batch.num_spoken, middle[:, start : start + sound.shape[1]]

    def _phoneme_loss(self, sound: Tensor, phonemes: Tensor) -> Tensor:
        guesses = F.linear(sound, self.weights["help.phoneme"]).float()
        return _mean_loss(guesses.reshape(-1, NUM_PHONEMES), phonemes.flatten())

    def _word_loss(self, head: str, stream: Tensor, words: Tensor) -> Tensor:
        """Of every other token, to save time: the head has a row for each word."""
        start = self.num_steps % 2
        guesses = F.linear(stream[:, start::2], self.weights[head]).float()
        return _mean_loss(guesses.flatten(0, 1), words[:, start::2].flatten())


def rate_at(share: float, num_steps: int) -> float:
    """Warm-up over the first steps, then a cosine over the share of the time."""
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return min(1.0, num_steps / WARM_UP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def _mean_loss(guesses: Tensor, labels: Tensor) -> Tensor:
    """Zero, not NaN, where no label counts."""
    total = F.cross_entropy(guesses, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def _draw_heads(size: AsrSize, seed: int) -> dict[str, Tensor]:
    """Heads that only training needs."""
    generator = torch.Generator().manual_seed(seed + 1)
    width, num_words = size.decoder.hidden, len(word_numbers()) + 1
    rows = {
        "help.phoneme": 2 * NUM_PHONEMES,
        "help.tower_word": num_words,
        "help.word": num_words,
    }
    scale = 1 / math.sqrt(width)
    return {n: torch.randn(k, width, generator=generator) * scale for n, k in rows.items()}


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())
