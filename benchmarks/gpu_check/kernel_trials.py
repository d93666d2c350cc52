"""Each kernel at real sizes in bfloat16 against its plain twin, and what is made of all of them."""

import copy
import importlib
import itertools
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_check import checkpoints
from benchmarks.gpu_check.attempts import attempt
from benchmarks.gpu_check.kernels import Clock
from benchmarks.gpu_check.part import Part
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu.availability import find_missing_kernels
from qwen3_audio.engine.kv_cache import DecodeAttention, KvPool, PageBook
from qwen3_audio.engine.weights import Weights, read_json
from qwen3_audio.kernels.fused.fp8 import why_no_fp8
from qwen3_audio.kernels.fused.ops import TRITON, FusedOps
from qwen3_audio.kernels.fused.predictor import FusedPredictor
from qwen3_audio.kernels.fused.shapes import SampleRows
from qwen3_audio.kernels.fused.stack import FusedStack
from qwen3_audio.kernels.fused.trials import TOLERANCE, Trial, Trials, TrialSizes
from qwen3_audio.models.code_predictor import FrameCache
from qwen3_audio.models.configs import TalkerConfig
from qwen3_audio.models.talker import Talker
from qwen3_audio.types import ModelKind

DTYPE = torch.bfloat16
LENGTHS = (1, 300, 0, 33)
REAL = TrialSizes(width=2048, inner=6144, vocab=3072, large_vocab=151_936, lengths=(700,))
SMALL = TrialSizes(
    width=64,
    inner=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    num_frame_positions=9,
    vocab=100,
    large_vocab=130,
)
ROWS = (1, 4, 16, 64)
FEW_CHOICES = 4  # there are more of them in any trial
STACK_ROWS = (1, 2, 4, 5, 32)  # few rows have products of their own
STACK_LENGTHS = (40, 1, 300, 33)
COSINE = 0.999  # in every row


class FewRows(FusedOps):
    """Twins in place of the kernels, with the way of few rows."""

    max_few_rows = 4


@torch.inference_mode()
def run(part: Part, size: str) -> None:
    device = torch.device(part.device)
    Device(device, DTYPE).enter()
    if part.is_gpu and (missing := find_missing_kernels()):
        part.note(f"{missing}: there are no kernels to be tried")
        return
    ops, clock = _choose_ops(part), Clock(part)
    for rows in ROWS if part.is_gpu else (4,):
        with attempt(part, f"kernels of {rows} rows"):
            try_kernels(part, ops, clock, rows)
    if part.has_time(10.0, "stacks"):
        with attempt(part, "stacks of kernels"):
            _compare_stacks(part, ops, clock, _load_talker(part, size))


def _choose_ops(part: Part) -> FusedOps:
    """The kernels themselves, whether or not a start would find them good enough."""
    if not part.is_gpu:
        part.note("no kernel runs on a CPU: their twins stand for them")
        return FewRows()
    ops: FusedOps = importlib.import_module(TRITON).TritonOps()
    return ops


def try_kernels(part: Part, ops: FusedOps, clock: Clock, rows: int) -> None:
    """All that depend on the number of rows; with the fewest of them also the products of few."""
    device, plain = torch.device(part.device), FusedOps()
    has_fp8 = why_no_fp8(device) is None
    sizes = replace(REAL if part.is_gpu else SMALL, num_rows=rows)
    if rows > 1:
        sizes = replace(sizes, lengths=tuple(itertools.islice(itertools.cycle(LENGTHS), rows)))
    trials = Trials(ops, device, DTYPE, sizes, has_fp8=has_fp8)
    groups = [trials.of_rows, trials.of_pages, trials.of_frames]
    if rows > FEW_CHOICES or not part.is_gpu:
        groups.append(trials.of_choices)
    if rows == ROWS[0] or not part.is_gpu:
        groups.append(trials.of_products)
    for group in groups:
        what = f"{group.__name__.removeprefix('of_')}, {rows} rows"
        if part.has_time(3.0, what):
            with attempt(part, f"tensors of {what}"):
                _try_each(part, clock, rows, group(), ops, plain)


def _try_each(
    part: Part, clock: Clock, rows: int, trials: Iterable[Trial], ops: FusedOps, plain: FusedOps
) -> None:
    for trial in trials:
        name = ", ".join(filter(None, (trial.name, trial.case or f"{rows} rows")))
        with attempt(part, name):
            error = trial.error(ops, plain)
            ms, plain_ms = (clock.ms(trial.start(one)) for one in (ops, plain))
            detail = f"apart by {error:.1e}; {ms:.4f} ms, torch {plain_ms:.4f} ms"
            part.check(name, error <= TOLERANCE[DTYPE], detail)


def _load_talker(part: Part, size: str) -> Talker:
    folder = checkpoints.make(part, ModelKind.CUSTOM_VOICE.value, size).folder
    config = TalkerConfig.from_json(read_json(folder / "config.json"))
    weights = Weights(folder, dtype=DTYPE, device=torch.device(part.device))
    return Talker(config, weights, DTYPE)


def _compare_stacks(part: Part, ops: FusedOps, clock: Clock, talker: Talker) -> None:
    for rows in STACK_ROWS if part.is_gpu else STACK_ROWS[2:4]:
        if part.has_time(3.0, f"stacks of {rows} rows"):
            name = f"the talker's stack, {rows} rows"
            with attempt(part, name):
                _compare_stack(part, name, ops, clock, talker, rows)
            name = f"the code predictor, {rows} rows"
            with attempt(part, name):
                _compare_predictor(part, name, ops, clock, talker, rows)


def _compare_stack(
    part: Part, name: str, ops: FusedOps, clock: Clock, talker: Talker, rows: int
) -> None:
    """A step of sequences of different lengths, behind the same keys and values."""
    stack, generator = talker.stack, torch.Generator(part.device).manual_seed(rows)
    ends = list(itertools.islice(itertools.cycle(STACK_LENGTHS), rows))
    pool = KvPool(
        stack.config,
        num_pages=sum(map(PageBook.pages_for, ends)),
        num_slots=rows,
        max_positions=max(STACK_LENGTHS),
        dtype=DTYPE,
        device=talker.device,
    )
    for slot, end in enumerate(ends):
        pool.extend(slot, end)
    for numbers in (pool.k, pool.v):
        numbers.normal_(generator=generator)
    slots, lengths = torch.arange(rows, device=talker.device), torch.tensor(ends).to(talker.device)
    x = torch.empty(rows, stack.config.hidden_size, device=talker.device)
    x = x.normal_(generator=generator).to(DTYPE)
    attention = DecodeAttention.build(pool, slots, lengths - 1, max(ends))
    expected = stack(x, stack.rope(lengths - 1), attention)
    fused = FusedStack(ops, stack, pool.k, pool.v, max_positions=pool.max_positions)

    def step() -> Tensor:
        return fused.step(x, lengths - 1, pool.page_of, lengths)

    _check_cosine(part, name, step(), expected, clock.ms(step))


def _compare_predictor(
    part: Part, name: str, ops: FusedOps, clock: Clock, talker: Talker, rows: int
) -> None:
    """Logits of all passes with the codes given; the time is that of passes that choose."""
    predictor, generator = talker.predictor, torch.Generator().manual_seed(rows)
    shape = (rows, predictor.num_groups)
    codes = torch.randint(predictor.codebook_size, shape, generator=generator).to(talker.device)
    hidden = torch.randn(rows, talker.codec_embedding.shape[1], generator=generator)
    hidden, first = hidden.to(talker.device, DTYPE), talker.embed_codec(codes[:, 0])
    heat = torch.full((rows,), 0.9, device=talker.device)
    settings = SampleRows(heat, torch.full_like(codes[:, 0], 50), torch.ones_like(heat))
    got, expected = list[Tensor](), list[Tensor]()

    def choose(logits: Tensor, *rest: object) -> Tensor:
        got.append(logits)
        return codes[:, len(got)]

    def sample(logits: Tensor, group: int) -> Tensor:
        expected.append(logits)
        return codes[:, group]

    forced = copy.copy(ops)
    vars(forced)["choose_ids"] = choose
    FusedPredictor(forced, predictor, rows)(hidden, first, codes, settings)
    predictor(hidden, first, sample, FrameCache(predictor, rows))
    free = FusedPredictor(ops, predictor, rows)
    time_ms = clock.ms(lambda: free(hidden, first, codes, settings))
    _check_cosine(part, name, torch.cat(got), torch.cat(expected), time_ms)


def _check_cosine(part: Part, name: str, got: Tensor, expected: Tensor, time_ms: float) -> None:
    """Of what the kernels and plain torch made of the same weights, both in bfloat16."""
    least = float(functional.cosine_similarity(got.float(), expected.float(), dim=-1).min())
    part.check(name, least >= COSINE, f"cosine {least:.5f} or more; {time_ms:.3f} ms")
