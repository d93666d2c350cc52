"""The official packages on the same folders, float32 and greedy: the same codes, the same tokens.

They run unchanged in environments of their own; each is given its orders on stdin and leaves
arrays in a folder.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from qwen3_audio.types import LISTEN_RATE_HZ, ModelKind, Pcm
from training.asr.clips import to_16k
from training.asr.voices import trained_style
from training.measure.ours import Heard, SpokenCodes, listen_ourselves, speak_ourselves
from training.measure.plan import Json, Plan
from training.measure.sound import shared_espeak
from training.run import say
from training.world.grammar import utterance

_ROOT = Path(__file__).parents[2]
_NUM_CLIPS = 12
_LONGEST_CLIP_S = 7.5  # behind 8 s only FlashAttention gives the official encoder its windows
_MAX_FRAMES = 300
_MAX_TOKENS = 64  # the package does not know these end ids: it goes on, to no text
_SEED = 41
_CASES: tuple[Json, ...] = (
    {"text": "Hello, this is the server speaking.", "speaker": "ryan", "language": "English"},
    {"text": "The quick brown fox jumps over the lazy dog.", "speaker": "vivian"},
    {"text": "My phone number is 42, thank you.", "speaker": "sohee", "language": "English"},
    {"text": "Good morning! Is the train late again?", "speaker": "uncle_fu"},
    {"text": "We ate bread, cheese and apples.", "speaker": "dylan", "language": "English"},
    {"text": "Yes.", "speaker": "ono_anna", "language": "English"},
)
_DESIGNED: Json = {
    "text": "The old house is very quiet tonight.",
    "language": "English",
    "instructions": "A deep male voice, speaking slowly.",
}
_CLONED = "The children play in the garden."


def measure_official_speech(plan: Plan) -> Json | None:
    """None without a Python that has the package."""
    if plan.official_speech is None:
        say("  not run: name a Python that has qwen-tts with --official-tts")
        return None
    result = compare_speech(plan, plan.official_speech)
    say(f"  {result['same']} of {result['of']} texts have the same codes")
    return result


def measure_official_listening(plan: Plan) -> Json | None:
    """None without a Python that has the package."""
    if plan.official_listening is None:
        say("  not run: name a Python that has qwen-asr with --official-asr")
        return None
    result = compare_listening(plan, plan.official_listening)
    say(f"  {result['same']} of {result['of']} clips have the same tokens")
    return result


def compare_speech(plan: Plan, python: Path) -> Json:
    """CustomVoice, VoiceDesign, Base by its vector and in context, behind our own first sound."""
    named = speak_ourselves(plan.models[ModelKind.CUSTOM_VOICE], _CASES, _MAX_FRAMES)
    reference = named[0].samples
    by_kind: dict[ModelKind, list[Json]] = {
        ModelKind.CUSTOM_VOICE: list(_CASES),
        ModelKind.BASE: [
            {"text": _CLONED, "language": "English"},
            {"text": _CLONED, "language": "English", "reference_text": _CASES[0]["text"]},
        ],
        ModelKind.VOICE_DESIGN: [_DESIGNED],
    }
    rows: list[Json] = []
    versions: Json = {}
    for kind, cases in by_kind.items():
        ours = named
        if kind is not ModelKind.CUSTOM_VOICE:
            ours = speak_ourselves(plan.models[kind], cases, _MAX_FRAMES, reference)
        order: Json = {"checkpoint": str(plan.models[kind].absolute()), "kind": str(kind)}
        order |= {"max_frames": _MAX_FRAMES, "cases": cases}
        theirs, versions = run_official(python, "official_speech", order, [reference])
        rows += [
            _speech_row(kind, case, our, theirs, number)
            for number, (case, our) in enumerate(zip(cases, ours, strict=True))
        ]
    return _count(rows, versions)


def _speech_row(kind: ModelKind, case: Json, ours: SpokenCodes, theirs: Json, number: int) -> Json:
    codes, samples = theirs[f"codes {number}"], theirs[f"samples {number}"]
    is_same = codes.shape == ours.codes.shape and bool((codes == ours.codes).all())
    length = min(len(samples), len(ours.samples))
    apart = np.abs(samples[len(samples) - length :] - ours.samples[len(ours.samples) - length :])
    return {
        "kind": str(kind),
        **{key: value for key, value in case.items() if key != "kind"},
        "same": is_same,
        "codes": [[*ours.codes.shape], [*codes.shape]],
        "samples": [len(ours.samples), len(samples)],
        "sound_apart": round(float(apart.max(initial=0)), 9),
    }


def compare_listening(plan: Plan, python: Path) -> Json:
    """Held-out utterances in trained voices."""
    folder = plan.models[ModelKind.ASR]
    texts, clips = draw_clips(_NUM_CLIPS)
    ours = listen_ourselves(folder, clips)
    order: Json = {"checkpoint": str(folder.absolute()), "max_tokens": _MAX_TOKENS}
    theirs, versions = run_official(python, "official_listening", order, clips)
    ends = end_ids(folder)
    rows = [
        _listening_row(text, our, until_end(theirs[f"tokens {number}"], ends), said)
        for number, (text, our, said) in enumerate(zip(texts, ours, theirs["heard"], strict=True))
    ]
    return _count(rows, versions)


def _listening_row(text: str, ours: Heard, tokens: list[int], theirs: Sequence[str]) -> Json:
    is_same = ours.tokens == tokens and [ours.language, ours.text] == [*theirs]
    row: Json = {"said": text, "heard": ours.text, "tokens": len(tokens), "same": is_same}
    return row if is_same else row | {"official": [*theirs]}


def draw_clips(number: int) -> tuple[list[str], list[Pcm]]:
    rng, texts, clips = Random(_SEED), list[str](), list[Pcm]()
    while len(clips) < number:
        text = utterance(rng, held_out=True)
        said = shared_espeak().say(text, trained_style(rng))
        samples = to_16k(said.samples, said.rate_hz)
        if len(samples) <= _LONGEST_CLIP_S * LISTEN_RATE_HZ:
            texts.append(text)
            clips.append(samples)
    return texts, clips


def end_ids(folder: Path) -> frozenset[int]:
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    found = settings["eos_token_id"]
    return frozenset(found if isinstance(found, list) else [found])


def until_end(tokens: Sequence[int], ends: frozenset[int]) -> list[int]:
    """The package goes on behind the end ids of a small vocabulary."""
    kept: list[int] = []
    for token in tokens:
        if int(token) in ends:
            break
        kept.append(int(token))
    return kept


def run_official(
    python: Path, module: str, order: Json, sounds: Sequence[Pcm]
) -> tuple[Json, Json]:
    """Its arrays by name, with what it says of them, and the versions it ran with."""
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-measure-") as name:
        folder = Path(name)
        for number, samples in enumerate(sounds):
            np.save(folder / f"sound {number}.npy", samples)
        process = subprocess.run(
            [python.absolute(), "-m", f"training.measure.{module}"],
            input=json.dumps(order | {"folder": name, "num_sounds": len(sounds)}),
            text=True,
            capture_output=True,
            cwd=_ROOT,
            env=dict(os.environ) | _CALM,
        )
        if process.returncode != 0:
            last = process.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise RuntimeError(f"The official package failed: {last[0]}")
        with np.load(folder / "answer.npz") as arrays:
            answer: Json = dict(arrays)
        told = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    return answer | {"heard": told.get("heard", [])}, told["versions"]


_CALM = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": str(_ROOT)}


def _count(rows: list[Json], versions: Json) -> Json:
    return {
        "same": sum(row["same"] for row in rows),
        "of": len(rows),
        "rows": rows,
        "versions": versions,
    }
