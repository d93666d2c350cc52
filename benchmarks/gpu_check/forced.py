"""Full-size weights with the codes given: the GPU in float32 and bfloat16 against the CPU.

A choice that differs leads nobody astray, because the next step is given, too. It counts where the
CPU's two best logits are more than `GAP` apart: below it the last bits of a sum decide.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_check import checkpoints, driving
from benchmarks.gpu_check.attempts import attempt
from benchmarks.gpu_check.driving import Turns
from benchmarks.gpu_check.part import Part
from benchmarks.gpu_check.tiny import exact_arithmetic
from qwen3_audio.bench.work import TEXT, make_sound
from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.tts import embed_prompt
from qwen3_audio.models.code_predictor import FrameCache
from qwen3_audio.models.mel import log_mel_16k
from qwen3_audio.models.talker import Talker
from qwen3_audio.types import LISTEN_RATE_HZ, ModelKind, SpeechRequest

GAP = 1e-3
COSINE = 0.999  # of bfloat16, in every row
NUM_FRAMES, NUM_PREDICTED, NUM_TOKENS = 48, 8, 33
CLIP_S = 10.0
FREE_FRAMES = 16  # spoken freely, graphs against plain


@dataclass(frozen=True, slots=True)
class Rows:
    """What a model made of given steps, on the host in float32."""

    hidden: Tensor  # [rows, D]
    logits: Tensor  # [rows, V]

    @classmethod
    def of(cls, hidden: Tensor, logits: Tensor) -> "Rows":
        return cls(hidden.float().cpu(), logits.float().cpu())


Forced = Callable[[Checkpoint, Part, Device], dict[str, Rows]]


@torch.inference_mode()
def run(part: Part, size: str) -> None:
    exact_arithmetic()
    for kind, forced in ((ModelKind.CUSTOM_VOICE, _force_voice), (ModelKind.ASR, _force_ears)):
        with attempt(part, f"{kind}, steps given"):
            _compare_precisions(part, checkpoints.make(part, kind.value, size), forced)
    if part.has_time(20.0, "graphs against plain"):
        with attempt(part, "graphs against plain, full size"):
            _compare_graphs(part, checkpoints.make(part, ModelKind.CUSTOM_VOICE.value, size))


def _compare_precisions(part: Part, checkpoint: Checkpoint, forced: Forced) -> None:
    expected = forced(checkpoint, part, driving.plain_cpu())
    target = torch.device(part.device)
    for dtype in (torch.float32, torch.bfloat16):
        precision = str(dtype).removeprefix("torch.")
        with attempt(part, f"{checkpoint.kind}, {precision}"):
            found = forced(checkpoint, part, Device(target, dtype))
            for name, rows in found.items():
                what = f"{checkpoint.kind} {name}, {precision}"
                if dtype is torch.float32:
                    _check_choices(part, what, rows, expected[name])
                else:
                    _check_cosine(part, what, rows, expected[name])
        if part.is_gpu:
            torch.cuda.empty_cache()


def _check_choices(part: Part, what: str, ours: Rows, theirs: Rows) -> None:
    best = theirs.logits.topk(2, -1)
    is_clear = best.values[:, 0] - best.values[:, 1] > GAP
    differs = ours.logits.argmax(-1) != best.indices[:, 0]
    apart = float((ours.logits - theirs.logits).abs().max())
    num_wrong = int((differs & is_clear).sum())
    detail = (
        f"{num_wrong} of {int(is_clear.sum())} clear choices differ, {int(differs.sum())} of all"
        f" {len(differs)}; logits at most {apart:.1e} apart"
    )
    part.check(what, num_wrong == 0 and bool(ours.logits.isfinite().all()), detail)


def _check_cosine(part: Part, what: str, ours: Rows, theirs: Rows) -> None:
    hidden = functional.cosine_similarity(ours.hidden, theirs.hidden, dim=-1).min()
    logits = functional.cosine_similarity(ours.logits, theirs.logits, dim=-1).min()
    detail = f"cosine of hidden states {float(hidden):.5f}, of logits {float(logits):.5f} or more"
    part.check(what, min(float(hidden), float(logits)) >= COSINE, detail)


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All rows of one sequence at once: q [T, H, E], k and v [T, K, E] → [T, H * E]."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.transpose(0, 1).repeat_interleave(group, 0)[None] for x in (k, v))
    out = functional.scaled_dot_product_attention(q.transpose(0, 1)[None], k, v, is_causal=True)
    return out[0].transpose(0, 1).reshape(q.shape[0], -1)


def _force_voice(checkpoint: Checkpoint, part: Part, device: Device) -> dict[str, Rows]:
    settings = driving.settings_for(part, "float32", 1)
    model = driving.load_voice(checkpoint, settings, replace(device, lanes=None))
    talker = model.runner.talker
    request = SpeechRequest(
        checkpoint.kind, TEXT, 0, language="English", speaker=model.info.speakers[0]
    )
    prompt, _ = embed_prompt(talker, model.prompts.build(request))
    codes = _draw_codes(talker).to(device.device)
    rows = torch.cat([prompt, talker.embed_frames(codes) + model.runner.pad])
    positions = torch.arange(len(rows), device=device.device)
    hidden = talker.stack(rows, talker.stack.rope(positions), causal)
    given = torch.randn(NUM_PREDICTED, hidden.shape[1], generator=torch.Generator().manual_seed(1))
    return {
        "talker": Rows.of(hidden, talker.logits(hidden)),
        "code predictor": _force_predictor(talker, given, codes[:NUM_PREDICTED]),
    }


def _draw_codes(talker: Talker) -> Tensor:
    size = talker.predictor.codebook_size
    shape = (NUM_FRAMES, talker.config.num_code_groups)
    return torch.randint(0, size, shape, generator=torch.Generator().manual_seed(0))


def _force_predictor(talker: Talker, given: Tensor, codes: Tensor) -> Rows:
    """Behind the same hidden states everywhere, with each pass's code given."""
    logits: list[Tensor] = []

    def sample(row_logits: Tensor, group: int) -> Tensor:
        logits.append(row_logits)
        return codes[:, group]

    hidden = given.to(device=codes.device, dtype=talker.stack.activations)
    cache = FrameCache(talker.predictor, len(codes))
    talker.predictor(hidden, talker.embed_codec(codes[:, 0]), sample, cache)
    rows = torch.cat(logits)
    return Rows.of(rows, rows)


def _force_ears(checkpoint: Checkpoint, part: Part, device: Device) -> dict[str, Rows]:
    settings = driving.settings_for(part, "float32", 1)
    model = driving.load_ears(checkpoint, settings, replace(device, lanes=None))
    runner = model.runner
    mel = log_mel_16k(torch.tensor(make_sound(CLIP_S, LISTEN_RATE_HZ)).to(device.device))
    (sound,) = runner.encoder.encode([mel])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(runner.embedding), (NUM_TOKENS,), generator=generator)
    activations = runner.decoder.stack.activations
    rows = torch.cat(
        [sound.to(activations), runner.embedding[ids.to(device.device)].to(activations)]
    )
    stack, positions = runner.decoder.stack, torch.arange(len(rows), device=device.device)
    hidden = stack(rows, stack.rope(positions), causal)
    heard = hidden[-NUM_TOKENS:]
    return {"encoder": Rows.of(sound, sound), "decoder": Rows.of(heard, runner.head(heard))}


def _compare_graphs(part: Part, checkpoint: Checkpoint) -> None:
    """The real sizes in float32, spoken freely: captured steps choose what plain ones choose."""
    settings = driving.settings_for(part, "float32", 2)
    device = driving.choose_device(part, settings)
    if device.lanes is None:
        part.note("no graphs are used on this device")
        return
    codes = []
    for one in (device, replace(device, lanes=None)):
        model = driving.load_voice(checkpoint, settings, one)
        request = SpeechRequest(
            checkpoint.kind,
            TEXT,
            7,
            language="English",
            speaker=model.info.speakers[0],
            max_frames=FREE_FRAMES,
        )
        work = driving.speech(model, request)
        Turns(model.runner).run([work])
        codes.append(work.codes)
        del model
        torch.cuda.empty_cache()
    same = [bool(np.array_equal(a, b)) for a, b in zip(*codes, strict=True)]
    num_same = same.index(False) if False in same else len(same)
    part.check("graphs against plain, full size", all(same), f"{num_same} frames equal")
