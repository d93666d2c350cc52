"""Every operation against its plain twin on made-up tensors: at start on a card, in tests, and at
real sizes where a card is checked.

Letters in shapes as in shapes.py and twins.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qwen3_audio.kernels.fused.fp8 import Fp8Linear
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.shapes import (
    HeadNorms,
    History,
    LayerCache,
    Places,
    RopeTable,
    SampleRows,
)
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.qwen3 import Rope

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
EPS = 1e-6
NUM_LAYERS = 2  # of the caches, so that a layer is a view with gaps
Work = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class TrialSizes:
    """Sizes of the tensors; those of a published checkpoint's heads unless told otherwise."""

    width: int = 256
    inner: int = 384
    num_heads: int = 16
    num_kv_heads: int = 8
    head_dim: int = 128
    page_positions: int = 32
    num_frame_positions: int = 17
    num_groups: int = 16
    vocab: int = 2048
    large_vocab: int = 9000
    lengths: tuple[int, ...] = (1, 70, 0, 33)  # 0: padding
    num_rows: int = 3  # where they are of no sequence, or all at one position


@dataclass(frozen=True, slots=True)
class Trial:
    """One operation; `start` gives it tensors of its own, and what it does may be done again."""

    name: str
    start: Callable[[FusedOps], Work]
    case: str = ""  # which of several of this name
    is_choice: bool = False  # among ids: equal or not

    def error(self, fast: FusedOps, plain: FusedOps) -> float:
        """The greatest difference as a share of the greatest number, or of rows that differ."""
        got, expected = (self.start(ops)() for ops in (fast, plain))
        if self.is_choice:
            return max(map(_share_differing, got, expected))
        numbers, wanted = (torch.cat([x.double().flatten() for x in xs]) for xs in (got, expected))
        return float((numbers - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9))


class Trials:
    """Makes tensors in one precision and compares what comes of them."""

    def __init__(
        self,
        fast: FusedOps,
        device: torch.device,
        dtype: torch.dtype,
        sizes: TrialSizes,
        *,
        has_fp8: bool = False,
    ) -> None:
        """`has_fp8`: weights in 8-bit floats are tried too."""
        self._has_fp8 = has_fp8
        self.fast, self.plain = fast, FusedOps()
        self.device, self.dtype, self.sizes = device, dtype, sizes
        self._generator = torch.Generator().manual_seed(1)

    def differing(self) -> list[str]:
        """Operations that differ by more than rounding, or give no finite numbers; and how much."""
        worst = dict[str, float]()
        for name, error in self.errors():
            if not error <= max(worst.get(name, 0.0), TOLERANCE[self.dtype]):
                worst[name] = error
        return [f"{name} (by {error:.1e})" for name, error in worst.items()]

    def errors(self) -> Iterator[tuple[str, float]]:
        """Each operation and its error."""
        for trial in self.all():
            yield trial.name, trial.error(self.fast, self.plain)

    def all(self) -> Iterator[Trial]:
        yield from self.of_rows()
        yield from self.of_pages()
        yield from self.of_frames()
        yield from self.of_products()
        yield from self.of_choices()

    def draw(self, *shape: int) -> Tensor:
        numbers = torch.randn(shape, generator=self._generator)
        return numbers.to(device=self.device, dtype=self.dtype)

    def of_rows(self) -> Iterator[Trial]:
        s = self.sizes
        x, add = (self.draw(s.num_rows, s.width) for _ in range(2))
        weight = self.draw(s.width)
        gate_up = self.draw(s.num_rows, 2 * s.inner)
        yield Trial("sum and norm", lambda o: lambda: o.add_norm(x, add, weight, EPS))
        yield _trial("norm", lambda o: o.add_norm(x, None, weight, EPS)[0])
        yield _trial("SiLU", lambda o: o.silu_mul(gate_up))

    def _heads(self, num_positions: int) -> tuple[HeadNorms, RopeTable]:
        size = self.sizes.head_dim
        norms = HeadNorms(self.draw(size), self.draw(size), EPS)
        rope = Rope(size, 1e4, self.dtype).to(self.device)
        return norms, RopeTable.build(rope, num_positions)

    def _caches(self, num_pages: int, num_positions: int) -> Callable[[], LayerCache]:
        """Makes the same layer of a cache again and again."""
        s = self.sizes
        shape = (num_pages, NUM_LAYERS, s.num_kv_heads, num_positions, s.head_dim)
        k, v = self.draw(*shape), self.draw(*shape)
        return lambda: LayerCache(k.clone()[:, 1], v.clone()[:, 1])

    def of_pages(self) -> Iterator[Trial]:
        s, num_seqs = self.sizes, len(self.sizes.lengths)
        per_seq = -(-max(s.lengths) // s.page_positions) + 1
        lengths = torch.tensor(s.lengths, device=self.device)
        pages = torch.randperm(num_seqs * per_seq, generator=self._generator)
        pages = pages.view(num_seqs, per_seq).to(self.device)
        norms, rope = self._heads(per_seq * s.page_positions)
        new_cache = self._caches(num_seqs * per_seq, s.page_positions)
        where = {"at the end": lengths - 1, "in the middle": lengths // 2, "as padding": lengths}
        for case, positions in where.items():
            places = Places(positions.clamp(min=0), lengths, pages)
            qkv = self.draw(num_seqs, (s.num_heads + 2 * s.num_kv_heads) * s.head_dim)

            def place(ops: FusedOps, qkv: Tensor = qkv, places: Places = places) -> Work:
                cache = new_cache()
                return lambda: (*ops.place(qkv, norms, rope, cache, places), cache.k, cache.v)

            yield Trial("placing keys", place, f"{case} of {num_seqs} sequences")
        q, cache = self.draw(num_seqs, s.num_heads, s.head_dim), new_cache()
        places = Places(lengths, lengths, pages)
        yield _trial("attention", lambda o: o.attend(q, cache, places))

    def of_frames(self) -> Iterator[Trial]:
        s = self.sizes
        norms, rope = self._heads(s.num_frame_positions)
        new_cache = self._caches(s.num_rows, s.num_frame_positions)
        for start in (0, 2, s.num_frame_positions - 2):
            num_rows = s.num_rows * (2 if start == 0 else 1)
            qkv = self.draw(num_rows, (s.num_heads + 2 * s.num_kv_heads) * s.head_dim)

            def attend(ops: FusedOps, qkv: Tensor = qkv, start: int = start) -> Work:
                cache = new_cache()
                return lambda: (
                    ops.attend_frame(qkv, norms, rope, cache, start),
                    cache.k,
                    cache.v,
                )

            case = f"{num_rows} rows from position {start}"
            yield Trial("attention inside a frame", attend, case)

    def of_products(self) -> Iterator[Trial]:
        s = self.sizes
        norm = self.draw(s.width)
        linear = Linear(self.draw(s.inner, s.width), self.draw(s.inner))
        gate_up = Linear(self.draw(2 * s.inner, s.width))
        for num_rows in range(1, self.fast.max_few_rows + 1):
            x, add = self.draw(num_rows, s.width), self.draw(num_rows, s.inner)
            yield from self._products(x, add, norm, linear, gate_up)
            if self._has_fp8:
                yield from self._small_products(x, add, norm, linear, gate_up)

    def _products(
        self, x: Tensor, add: Tensor, norm: Tensor, linear: Linear, gate_up: Linear
    ) -> Iterator[Trial]:
        works: dict[str, Callable[[FusedOps], Tensor]] = {
            "product": lambda o: o.product(x, linear, None, 0.0),
            "product of a norm": lambda o: o.product(x, linear, norm, EPS),
            "product and sum": lambda o: o.product_sum(x, linear, add),
            "product and SiLU": lambda o: o.product_act(x, gate_up, norm, EPS),
        }
        for name, work in works.items():
            yield _trial(name, work, f"{len(x)} rows")

    def _small_products(
        self, x: Tensor, add: Tensor, norm: Tensor, linear: Linear, gate_up: Linear
    ) -> Iterator[Trial]:
        """8-bit weights in the kernels against what they stand for in the twins."""
        down, gated = Fp8Linear.of(linear), Fp8Linear.of(gate_up)
        wide = down.widened(self.dtype), gated.widened(self.dtype)
        weights = {self.fast: (down, gated), self.plain: wide}
        works: dict[str, Callable[[FusedOps], Tensor]] = {
            "8-bit product": lambda o: o.product_sum(x, weights[o][0], add),
            "8-bit product and SiLU": lambda o: o.product_act(x, weights[o][1], norm, EPS),
        }
        for name, work in works.items():
            yield _trial(name, work, f"{len(x)} rows")

    def of_choices(self) -> Iterator[Trial]:
        s = self.sizes
        settings = [(0.9, k, p) for k in (1, 50, 1 << 31) for p in (1.0, 0.8)]
        settings.append((0.0, 50, 1.0))
        settings += settings * (s.num_rows // len(settings))
        temperature, top_k, top_p = (
            torch.tensor(column, device=self.device) for column in zip(*settings, strict=True)
        )
        rows, num_rows = SampleRows(temperature, top_k, top_p), len(settings)
        keys = torch.randint(1 << 62, (num_rows, 2), generator=self._generator).to(self.device)
        seeds, steps = keys.unbind(1)
        drawn = _trial("drawing of keys", lambda o: o.draw_keys(seeds, steps, s.num_groups))
        yield replace(drawn, is_choice=True)
        for vocab in (s.vocab, s.large_vocab):
            logits = torch.randn(num_rows, vocab, generator=self._generator).to(self.device) * 3

            def choose(ops: FusedOps, logits: Tensor = logits) -> Tensor:
                return ops.choose_ids(logits, keys[:, 1], rows)

            case = f"{num_rows} of {vocab} candidates"
            yield replace(_trial("sampling", choose, case), is_choice=True)
        logits, new_history = self.draw(num_rows, s.vocab) * 3, self._histories(num_rows)

        def choose_first(ops: FusedOps) -> Work:
            history = new_history()
            return lambda: (ops.choose_first(logits, keys[:, 0], rows, history), history.seen)

        yield Trial("sampling of the first code", choose_first, is_choice=True)

    def _histories(self, num_rows: int) -> Callable[[], History]:
        vocab = self.sizes.vocab
        seen = (torch.rand(num_rows + 1, vocab, generator=self._generator) < 0.3).to(self.device)
        banned = (torch.rand(vocab, generator=self._generator) < 0.3).to(self.device)
        slots = torch.arange(num_rows, 0, -1, device=self.device)
        frames = torch.arange(num_rows + 1, device=self.device) % 4
        return lambda: History(
            slots, seen.clone(), frames, banned, eos=5, min_frames=2, penalty=1.05
        )


def _trial(name: str, run: Callable[[FusedOps], Tensor], case: str = "") -> Trial:
    """Of an operation that changes nothing."""
    return Trial(name, lambda ops: lambda: (run(ops),), case)


def _share_differing(got: Tensor, expected: Tensor) -> float:
    """Of rows."""
    differs = (got != expected).flatten(1).any(1) if got.ndim > 1 else got != expected
    return float(differs.float().mean())
