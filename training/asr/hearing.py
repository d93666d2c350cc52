"""A look at the model while it learns: greedy decoding with the training's own forward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen3_audio.engine.asr_prompt import build_prompt, parse_output
from qwen3_audio.engine.tokenizer import TextTokenizer
from training.asr.augment import DYNAMIC_RANGE, FLOOR
from training.asr.clips import mel_of
from training.asr.learner import Learner
from training.asr.model import decode, embed, encode, logits
from training.asr.trials import Trial
from training.asr.wordcount import word_error_rate

_BATCH, _MAX_TOKENS = 40, 100


@torch.no_grad()
def quick_look(
    learner: Learner, tokenizer: TextTokenizer, trials: Sequence[Trial]
) -> dict[str, float]:
    """The word error rate, and the share of exact answers."""
    ordered = sorted(trials, key=lambda trial: len(trial.samples))
    heard: list[str] = []
    for start in range(0, len(ordered), _BATCH):
        heard += _hear(learner, tokenizer, ordered[start : start + _BATCH])
    said = [trial.text for trial in ordered]
    exact = sum(one == two for one, two in zip(said, heard, strict=True)) / len(said)
    return {"wer": word_error_rate(said, heard), "exact": exact}


def _hear(learner: Learner, tokenizer: TextTokenizer, trials: Sequence[Trial]) -> list[str]:
    mels = _mels(trials).to(learner.device, learner.dtype)
    sound = encode(learner.weights, learner.size, mels)
    prompt = build_prompt(tokenizer, sound.shape[1])
    rows = embed(learner.weights, torch.tensor(prompt.ids, device=learner.device))
    rows = rows.repeat(len(trials), 1, 1)
    rows[:, prompt.audio_start : prompt.audio_start + sound.shape[1]] = sound
    ends = torch.tensor([tokenizer.special(name) for name in ("<|im_end|>", "<|endoftext|>")])
    ends = ends.to(learner.device)
    answer = torch.zeros(len(trials), 0, dtype=torch.long, device=learner.device)
    for _ in range(_MAX_TOKENS):
        stream = torch.cat([rows, embed(learner.weights, answer)], 1)
        hidden, _ = decode(learner.weights, learner.size, stream)
        newest = logits(learner.weights, hidden[:, -1]).argmax(-1)
        answer = torch.cat([answer, newest[:, None]], 1)
        if torch.isin(answer, ends).any(1).all():
            break
    return [_text(tokenizer, ids, set(ends.tolist())) for ids in answer.tolist()]


def _mels(trials: Sequence[Trial]) -> Tensor:
    """[B, T, 128]: shorter clips end in silence."""
    mels = [torch.from_numpy(mel_of(trial.samples)).float() for trial in trials]
    longest = max(map(len, mels))
    rows = torch.empty(len(mels), longest, mels[0].shape[1])
    for row, mel in zip(rows, mels, strict=True):
        row.fill_(max(float(mel.max()) - DYNAMIC_RANGE, FLOOR))
        row[: len(mel)] = mel
    return rows


def _text(tokenizer: TextTokenizer, ids: list[int], ends: set[int]) -> str:
    first_end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return parse_output(tokenizer.decode(ids[:first_end]))[1]
