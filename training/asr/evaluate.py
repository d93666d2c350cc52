"""The figures that are published: the product's own engine hears every trial."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.local import LocalBackend, build_backend
from qwen3_audio.settings import Settings
from qwen3_audio.types import LISTEN_RATE_HZ, EndReason, Transcript, TranscriptionRequest
from training.asr.trials import Trial, phrase_trials, silent_trials, speech_trials
from training.asr.wordcount import word_error_rate
from training.run import say
from training.world.espeak import Espeak

BOUNDS = {
    "trained_voices": 0.03,
    "never_trained_m6": 0.06,
    "never_trained_f3": 0.06,
    "never_trained_Annie": 0.06,
    "white_noise_10_db": 0.06,
    "pink_noise_10_db": 0.06,
}
_AT_ONCE = 8
_NUM_SHOWN = 8  # wrong answers that are kept for reading
_NUM_TIMED = 60
Json = dict[str, Any]


def evaluate(folder: Path, espeak: Espeak, *, share: float = 1.0) -> Json:
    """Word error rates by condition, how often silence stays empty, and the real-time factor."""
    return asyncio.run(_evaluate(folder, espeak, share))


async def _evaluate(folder: Path, espeak: Espeak, share: float) -> Json:
    backend = build_backend([open_checkpoint(folder)], Settings.from_env(), lambda *_: None)
    try:
        speech: Json = {}
        trials = {**speech_trials(espeak, share), "phrases": phrase_trials(espeak)}
        for name, some in trials.items():
            speech[name] = judge(some, await _hear_all(backend, some))
            say(f"  {name}: WER {speech[name]['wer']:.4f}")
        silent: Json = {}
        for name, some in silent_trials(share).items():
            texts = [answer.text for answer in await _hear_all(backend, some)]
            silent[name] = {"clips": len(texts), "empty": texts.count("") / len(texts)}
            silent[name]["heard"] = [text for text in texts if text][:_NUM_SHOWN]
            say(f"  {name}: empty {silent[name]['empty']:.3f}")
        factor = await _realtime_factor(backend, trials["trained_voices"][:_NUM_TIMED])
        return {
            "speech": speech,
            "silent": silent,
            "realtime_factor": round(factor, 4),
            "precision": backend.where,
        }
    finally:
        await backend.close()


def judge(trials: Sequence[Trial], answers: Sequence[Transcript]) -> Json:
    """The figures of one condition."""
    said, heard = [trial.text for trial in trials], [answer.text for answer in answers]
    wrong = [pair for pair in zip(said, heard, strict=True) if pair[0] != pair[1]]
    stopped = sum(answer.reason is EndReason.STOP for answer in answers)
    return {
        "clips": len(said),
        "wer": round(word_error_rate(said, heard), 4),
        "exact": round(1 - len(wrong) / len(said), 4),
        "stopped": round(stopped / len(said), 4),
        "wrong": [{"said": one, "heard": two} for one, two in wrong[:_NUM_SHOWN]],
    }


def missed_bounds(figures: Json) -> list[str]:
    """Sentences about what is worse than it has to be."""
    missed = [
        f"{name}: WER {figures['speech'][name]['wer']:.4f}, at most {bound}"
        for name, bound in BOUNDS.items()
        if figures["speech"][name]["wer"] > bound
    ]
    return missed + [
        f"{name}: empty for {row['empty']:.3f} of the clips, should be all"
        for name, row in figures["silent"].items()
        if row["empty"] < 1
    ]


async def _hear_all(backend: LocalBackend, trials: Sequence[Trial]) -> list[Transcript]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def hear(trial: Trial) -> Transcript:
        async with gate:
            return await _hear(backend, trial)

    return list(await asyncio.gather(*map(hear, trials)))


async def _hear(backend: LocalBackend, trial: Trial) -> Transcript:
    async for item in backend.transcribe(TranscriptionRequest(trial.samples)):
        if isinstance(item, Transcript):
            return item
    raise AssertionError("a transcription ends with its transcript")


async def _realtime_factor(backend: LocalBackend, trials: Sequence[Trial]) -> float:
    """Seconds of work for a second of sound, one clip at a time."""
    started = time.perf_counter()
    for trial in trials:
        await _hear(backend, trial)
    worked = time.perf_counter() - started
    return worked / (sum(len(trial.samples) for trial in trials) / LISTEN_RATE_HZ)
