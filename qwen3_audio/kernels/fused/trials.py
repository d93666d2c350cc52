"""Every operation against its plain twin on made-up tensors: at start on a card, and in tests.

Letters in shapes as in shapes.py and twins.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
        """Names of the operations that differ by more than rounding, or give no finite numbers."""
        return [name for name, error in self.errors() if not error <= TOLERANCE[self.dtype]]

    def errors(self) -> Iterator[tuple[str, float]]:
        """Each operation's greatest difference, as a share of the greatest number expected."""
        yield from self._rows()
        yield from self._pages()
        yield from self._frame()
        yield from self._products()
        yield from self._choices()

    def draw(self, *shape: int) -> Tensor:
        numbers = torch.randn(shape, generator=self._generator)
        return numbers.to(device=self.device, dtype=self.dtype)

    def _both(self, name: str, run: Callable[[FusedOps], Tensor]) -> tuple[str, float]:
        got, expected = run(self.fast).double(), run(self.plain).double()
        peak = expected.abs().max().clamp(min=1e-9)
        return name, float((got - expected).abs().max() / peak)

    def _rows(self) -> Iterator[tuple[str, float]]:
        s = self.sizes
        x, add, weight = self.draw(3, s.width), self.draw(3, s.width), self.draw(s.width)
        gate_up = self.draw(3, 2 * s.inner)
        yield self._both("sum and norm", lambda o: torch.cat(o.add_norm(x, add, weight, EPS)))
        yield self._both("norm", lambda o: o.add_norm(x, None, weight, EPS)[0])
        yield self._both("SiLU", lambda o: o.silu_mul(gate_up))

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

    def _pages(self) -> Iterator[tuple[str, float]]:
        s, num_seqs = self.sizes, len(self.sizes.lengths)
        per_seq = -(-max(s.lengths) // s.page_positions) + 1
        lengths = torch.tensor(s.lengths, device=self.device)
        pages = torch.randperm(num_seqs * per_seq, generator=self._generator)
        pages = pages.view(num_seqs, per_seq).to(self.device)
        norms, rope = self._heads(per_seq * s.page_positions)
        new_cache = self._caches(num_seqs * per_seq, s.page_positions)
        for positions in (lengths - 1, lengths // 2, lengths):  # the last ones are all padding
            places = Places(positions.clamp(min=0), lengths, pages)
            qkv = self.draw(num_seqs, (s.num_heads + 2 * s.num_kv_heads) * s.head_dim)

            def place(ops: FusedOps, qkv: Tensor = qkv, places: Places = places) -> Tensor:
                cache = new_cache()
                parts = ops.place(qkv, norms, rope, cache, places)
                return torch.cat([part.flatten() for part in (*parts, cache.k, cache.v)])

            yield self._both("placing keys", place)
        q, cache = self.draw(num_seqs, s.num_heads, s.head_dim), new_cache()
        yield self._both("attention", lambda o: o.attend(q, cache, Places(lengths, lengths, pages)))

    def _frame(self) -> Iterator[tuple[str, float]]:
        s = self.sizes
        norms, rope = self._heads(s.num_frame_positions)
        new_cache = self._caches(3, s.num_frame_positions)
        for start in (0, 2, s.num_frame_positions - 2):
            num_rows = 2 * (2 if start == 0 else 1)
            qkv = self.draw(num_rows, (s.num_heads + 2 * s.num_kv_heads) * s.head_dim)

            def attend(ops: FusedOps, qkv: Tensor = qkv, start: int = start) -> Tensor:
                cache = new_cache()
                out = ops.attend_frame(qkv, norms, rope, cache, start)
                return torch.cat([part.flatten() for part in (out, cache.k, cache.v)])

            yield self._both("attention inside a frame", attend)

    def _products(self) -> Iterator[tuple[str, float]]:
        s = self.sizes
        norm = self.draw(s.width)
        linear = Linear(self.draw(s.inner, s.width), self.draw(s.inner))
        gate_up = Linear(self.draw(2 * s.inner, s.width))
        for num_rows in range(1, self.fast.max_few_rows + 1):
            x, add = self.draw(num_rows, s.width), self.draw(num_rows, s.inner)
            yield from self._products_of(x, add, norm, linear, gate_up)
            if self._has_fp8:
                yield from self._small_products(x, add, norm, linear, gate_up)

    def _products_of(
        self, x: Tensor, add: Tensor, norm: Tensor, linear: Linear, gate_up: Linear
    ) -> Iterator[tuple[str, float]]:
        yield self._both("product", lambda o: o.product(x, linear, None, 0.0))
        yield self._both("product of a norm", lambda o: o.product(x, linear, norm, EPS))
        yield self._both("product and sum", lambda o: o.product_sum(x, linear, add))
        yield self._both("product and SiLU", lambda o: o.product_act(x, gate_up, norm, EPS))

    def _small_products(
        self, x: Tensor, add: Tensor, norm: Tensor, linear: Linear, gate_up: Linear
    ) -> Iterator[tuple[str, float]]:
        """8-bit weights in the kernels against what they stand for in the twins."""
        down, gated = Fp8Linear.of(linear), Fp8Linear.of(gate_up)
        wide = down.widened(self.dtype), gated.widened(self.dtype)
        weights = {self.fast: (down, gated), self.plain: wide}
        yield self._both("8-bit product", lambda o: o.product_sum(x, weights[o][0], add))
        yield self._both(
            "8-bit product and SiLU", lambda o: o.product_act(x, weights[o][1], norm, EPS)
        )

    def _choices(self) -> Iterator[tuple[str, float]]:
        s = self.sizes
        settings = [(0.9, k, p) for k in (1, 50, 1 << 31) for p in (1.0, 0.8)]
        settings.append((0.0, 50, 1.0))
        temperature, top_k, top_p = (
            torch.tensor(column, device=self.device) for column in zip(*settings, strict=True)
        )
        rows, num_rows = SampleRows(temperature, top_k, top_p), len(settings)
        keys = torch.randint(1 << 62, (num_rows, 2), generator=self._generator).to(self.device)
        seeds, steps = keys.unbind(1)
        drawn = [o.draw_keys(seeds, steps, s.num_groups) for o in (self.fast, self.plain)]
        yield "drawing of keys", _share_differing(*drawn)
        for vocab in (s.vocab, s.large_vocab):
            logits = torch.randn(num_rows, vocab, generator=self._generator).to(self.device) * 3
            chosen = [o.choose_ids(logits, keys[:, 1], rows) for o in (self.fast, self.plain)]
            yield "sampling", _share_differing(*chosen)
        logits, new_history = self.draw(num_rows, s.vocab) * 3, self._histories(num_rows)
        histories = new_history(), new_history()
        chosen = [
            o.choose_first(logits, keys[:, 0], rows, history)
            for o, history in zip((self.fast, self.plain), histories, strict=True)
        ]
        yield "sampling of the first code", _share_differing(*chosen)
        counts = [history.seen.sum(1) for history in histories]
        yield "memory of codes", _share_differing(*counts)

    def _histories(self, num_rows: int) -> Callable[[], History]:
        vocab = self.sizes.vocab
        seen = (torch.rand(num_rows + 1, vocab, generator=self._generator) < 0.3).to(self.device)
        banned = (torch.rand(vocab, generator=self._generator) < 0.3).to(self.device)
        slots = torch.arange(num_rows, 0, -1, device=self.device)
        frames = torch.arange(num_rows + 1, device=self.device) % 4
        return lambda: History(
            slots, seen.clone(), frames, banned, eos=5, min_frames=2, penalty=1.05
        )


def _share_differing(got: Tensor, expected: Tensor) -> float:
    return float((got != expected).float().mean())
