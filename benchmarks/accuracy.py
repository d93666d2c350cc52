"""How exact is a precision? Every step beside float32 products of the same weights by torch.

Teacher-forced: both are given the same codes or tokens, whatever they would have chosen. A random
checkpoint does as well as a trained one. Exit code 1 if a bound is missed.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import work
from benchmarks.checkpoints import SIZES
from benchmarks.report import check_all, counted, format_table, say, write_result
from qwen3_audio.checkpoints import Checkpoint, open_checkpoint
from qwen3_audio.engine import sequence
from qwen3_audio.engine.asr_prompt import build_prompt
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.loading import ListeningModel, SpeechModel, load_listening, load_speech
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.tts import embed_prompt
from qwen3_audio.models.mel import log_mel_16k
from qwen3_audio.random_weights.asr import write_asr_checkpoint
from qwen3_audio.random_weights.tts import write_tts_checkpoint
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelKind, SpeechRequest

KINDS = ("custom_voice", "asr")
DTYPES = ("bfloat16", "int8")
NUM_STEPS = 512
MIN_GAP = 0.05  # of the two best logits, in their standard deviations: a clear choice
MIN_SAME = 0.99  # of the clear choices
MIN_COSINE = {"bfloat16": 0.9999, "int8": 0.99}
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Trace:
    """What one part of a model made of every step."""

    hidden: Tensor  # float32 [N, D] after the final norm; of the code predictor its logits
    logits: Tensor  # float32 [N, V]


@dataclass(frozen=True, slots=True)
class Figures:
    """One part in one precision beside the reference."""

    num_steps: int
    cosine_least: float
    cosine_mean: float
    cosine_logits_least: float
    num_clear: int
    same: float  # share of the clear choices

    @classmethod
    def compare(cls, got: Trace, reference: Trace) -> "Figures":
        cosines = functional.cosine_similarity(got.hidden.double(), reference.hidden.double())
        of_logits = functional.cosine_similarity(got.logits.double(), reference.logits.double())
        best = reference.logits.topk(2).values
        is_clear = best[:, 0] - best[:, 1] > MIN_GAP * reference.logits.std(1)
        is_same = got.logits.argmax(1) == reference.logits.argmax(1)
        num_clear = int(is_clear.sum())
        return cls(
            len(cosines),
            float(cosines.min()),
            float(cosines.mean()),
            float(of_logits.min()),
            num_clear,
            float((is_same & is_clear).sum()) / max(num_clear, 1),
        )


def make_checkpoint(folder: Path, kind: str, size: str) -> Path:
    """In bfloat16, whatever the size: the reference has the same weights, only wider.

    Random recognition is otherwise made so that every token hangs on all before it: sharp
    attention, which blows up any rounding eighty times (measured). Here it is as a norm of ones is.
    """
    speech, listening = SIZES[size]
    if kind == "asr":
        write_asr_checkpoint(folder, preset=listening, dtype="bfloat16", qk_gain=1.0)
    else:
        write_tts_checkpoint(folder, kind, preset=speech, dtype="bfloat16")
    return folder


def follow(decoder: PagedDecoder, prompt: Tensor, rows: Iterator[Tensor]) -> Iterator[Tensor]:
    """The prompt as a whole, then row by row, as a request would go: hidden states [1, D]."""
    seq = sequence.Sequence(
        seq_id=0,
        owner=1,
        num_prompt_tokens=len(prompt),
        num_reserved_positions=len(prompt) + NUM_STEPS,
        emit=lambda _: None,
        slot=0,
    )
    slots = decoder.index([seq])
    yield decoder.prefill([seq], [prompt])
    for row in rows:
        yield decoder.advance([seq], slots, row).clone()


def trace_talker(model: SpeechModel, codes: Tensor) -> Trace:
    """codes int64 [N, Q]: the frames that are given."""
    talker, decoder = model.runner.talker, model.runner.decoder
    request = SpeechRequest(
        ModelKind.CUSTOM_VOICE, work.TEXT, 0, language="English", speaker=model.info.speakers[0]
    )
    prompt, trailing = embed_prompt(talker, model.prompts.build(request))
    num_trailing = 0 if trailing is None else len(trailing)

    def rows() -> Iterator[Tensor]:
        for at in counted(range(NUM_STEPS), "talker steps", NUM_STEPS):
            side = trailing[at : at + 1] if at < num_trailing else model.runner.pad
            yield talker.embed_frames(codes[at : at + 1]) + side

    hidden = torch.cat(list(follow(decoder, prompt, rows())))
    return Trace(hidden.float(), talker.logits(hidden))


def trace_predictor(model: SpeechModel, codes: Tensor, hidden: Tensor) -> Trace:
    """hidden float32 [N, D] is the reference's, so that only the predictor itself is judged."""
    talker = model.runner.talker
    num_frames = math.ceil(NUM_STEPS / (codes.shape[1] - 1))
    heard: list[Tensor] = []

    def force(logits: Tensor, group: int) -> Tensor:
        heard.append(logits.float().clone())
        return codes[at : at + 1, group]

    for at in counted(range(num_frames), "frames of the code predictor", num_frames):
        first = talker.embed_codec(codes[at : at + 1, 0])
        model.runner.predict(hidden[at : at + 1].to(first.dtype), first, force)
    logits = torch.cat(heard)
    return Trace(logits, logits)


def trace_speech(model: SpeechModel, reference: dict[str, Trace] | None) -> dict[str, Trace]:
    config = model.runner.talker.config
    shape = (NUM_STEPS, config.num_code_groups)
    codes = torch.randint(config.predictor.vocab_size, shape, generator=_generator())
    talker = trace_talker(model, codes)
    hidden = (reference or {"talker": talker})["talker"].hidden
    return {"talker": talker, "code predictor": trace_predictor(model, codes, hidden)}


def trace_listening(model: ListeningModel, reference: dict[str, Trace] | None) -> dict[str, Trace]:
    """Sound and all: encoder and prompt are in the precision too."""
    runner = model.runner
    sound = runner.encoder.encode([log_mel_16k(torch.tensor(work.clip()))])[0]
    prompt = build_prompt(model.tokenizer, len(sound), context="", language="English")
    ids = torch.tensor(prompt.ids)
    dtype = runner.decoder.stack.activations
    rows = runner.embedding[ids].to(dtype)
    rows[prompt.audio_start : prompt.audio_start + len(sound)] = sound.to(dtype)
    tokens = torch.randint(int(ids.max()), (NUM_STEPS,), generator=_generator())
    embedded = (
        runner.embedding[tokens[at : at + 1]].to(dtype)
        for at in counted(range(NUM_STEPS), "decoder steps", NUM_STEPS)
    )
    hidden = torch.cat(list(follow(runner.decoder, rows, embedded)))
    logits = torch.cat([runner.head(row[None]).float() for row in hidden])
    return {"decoder": Trace(hidden.float(), logits)}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@torch.inference_mode()
def trace(
    checkpoint: Checkpoint, dtype: str, cache: Path, reference: dict[str, Trace] | None = None
) -> dict[str, Trace]:
    """In a precision as it is served; without a reference this is the one."""
    env = {"QWEN_TTS_DEVICE": "cpu", "MAX_RUNNING": "1", "XDG_CACHE_HOME": str(cache)}
    settings = Settings.from_env({**env, "QWEN_TTS_DTYPE": dtype})
    device = Device(CPU, torch.float32)
    if reference is not None:
        device = Device.choose(settings)
        say(f"{checkpoint.kind} in {device.precision} by {device.products}")
        if device.precision != dtype:
            raise SystemExit(device.explain_missing(wants_int8=dtype == "int8"))
    traced: dict[str, Trace]
    if checkpoint.kind is ModelKind.ASR:
        listening = load_listening(checkpoint, settings, device, _ignore)
        traced = trace_listening(listening, reference)
    else:
        traced = trace_speech(load_speech(checkpoint, settings, device, _ignore), reference)
    if device.kernels is not None:
        device.kernels.close()
    return traced


def _ignore(what: str, num_read: int, total: int) -> None:
    pass


def measure(
    checkpoint: Checkpoint, dtypes: Sequence[str], cache: Path
) -> dict[str, dict[str, Figures]]:
    """Figures by precision and part; `cache` is left with compiled kernels and int8 weights."""
    say(f"{checkpoint.kind} in float32 by torch, the reference")
    reference = trace(checkpoint, "float32", cache)
    return {
        dtype: {
            part: Figures.compare(got, reference[part])
            for part, got in trace(checkpoint, dtype, cache, reference).items()
        }
        for dtype in dtypes
    }


def judge(kind: str, figures: dict[str, dict[str, Figures]]) -> dict[str, bool]:
    """Every bound by its name."""
    checks = {}
    for dtype, parts in figures.items():
        for part, one in parts.items():
            what, least = f"{kind}, {part}, {dtype}", MIN_COSINE[dtype]
            checks[f"{what}: least cosine {one.cosine_least:.6f} >= {least}"] = (
                one.cosine_least >= least
            )
            if dtype == "bfloat16":
                checks[f"{what}: {one.same:.2%} of {one.num_clear} clear choices, >= 99 %"] = (
                    one.same >= MIN_SAME
                )
    return checks


def describe(kind: str, figures: dict[str, dict[str, Figures]]) -> str:
    head = ["part", "precision", "steps", "cosine least", "mean", "of logits", "same", "clear"]
    rows = [
        [
            f"{kind} {part}",
            dtype,
            one.num_steps,
            *(f"{x:.6f}" for x in (one.cosine_least, one.cosine_mean, one.cosine_logits_least)),
            f"{one.same:.2%}",
            one.num_clear,
        ]
        for dtype, parts in figures.items()
        for part, one in parts.items()
    ]
    return format_table(head, rows)


def main(arguments: Sequence[str] | None = None, keep: Callable[..., Any] = write_result) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--folder", type=Path, help="a checkpoint; default: made for this run")
    parser.add_argument("--size", choices=SIZES, default="0.6b")
    parser.add_argument("--kind", choices=KINDS, help="of the one that is made")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: both")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-bench-") as home:
        folder = given.folder
        if folder is None:
            say("Making a random checkpoint")
            kind = given.kind or KINDS[0]
            folder = make_checkpoint(Path(home) / kind, kind, given.size)
        checkpoint = open_checkpoint(folder)
        figures = measure(checkpoint, given.dtype or DTYPES, Path(home) / "cache")
    kind = str(checkpoint.kind)
    print(describe(kind, figures))
    if given.folder is not None or given.size != "tiny":  # tiny tries the tool only
        parts = {dtype: {p: asdict(f) for p, f in of.items()} for dtype, of in figures.items()}
        keep("accuracy", {kind: parts})
    return check_all(judge(kind, figures))


if __name__ == "__main__":
    sys.exit(main())
