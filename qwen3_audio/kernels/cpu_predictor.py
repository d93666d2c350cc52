"""The code predictor by the compiled kernels: the same passes as CodePredictor.forward.

Letters in shapes: B sequences, Q code groups, D talker width, P predictor width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3_audio.kernels.cpu_stack import CacheView, CpuStack
from qwen3_audio.kernels.products import Kernels
from qwen3_audio.models.code_predictor import CodePredictor, Sampler


@dataclass(frozen=True, slots=True)
class _Pass:
    """Indexes of one pass for the most sequences there can be; a batch uses the first rows."""

    view: CacheView
    rope: tuple[Tensor, Tensor]
    rows_per_seq: int


class CpuCodePredictor:
    """Called like models.code_predictor.CodePredictor, without its cache argument."""

    def __init__(self, kernels: Kernels, predictor: CodePredictor, max_seqs: int) -> None:
        config = predictor.stack.config
        self._predictor = predictor
        self._stack = CpuStack(kernels, predictor.stack, [*predictor.heads], 2 * max_seqs)
        num_positions = predictor.num_groups + 1
        shape = (  # a page a sequence
            max_seqs,
            config.num_layers,
            config.num_kv_heads,
            num_positions,
            config.head_dim,
        )
        self._k, self._v = torch.zeros(shape), torch.zeros(shape)
        self._pages = torch.arange(max_seqs)[:, None]
        prologue = self._plan([0, 1])
        self._passes = [prologue, *(self._plan([i]) for i in range(2, num_positions - 1))]

    def __call__(self, hidden: Tensor, first: Tensor, sample: Sampler) -> Tensor:
        """hidden float32 [B, D], embedding of code 0 float32 [B, D] → codes [B, Q - 1] int64."""
        rows = torch.stack([hidden, first], 1).view(2 * len(hidden), -1)
        codes: list[Tensor] = []
        for group, step in enumerate(self._passes, start=1):
            logits = self._run(rows, step, group - 1)
            codes.append(sample(logits, group))
            if group < len(self._passes):
                rows = self._predictor.embed_code(codes[-1], group)
        return torch.stack(codes, 1)

    def _run(self, rows: Tensor, step: _Pass, head: int) -> Tensor:
        num_rows, view = len(rows), step.view
        view = CacheView(view.k, view.v, view.pages[:num_rows], view.lengths[:num_rows])
        cos, sin = step.rope
        rows = self._predictor.projection(rows).contiguous()
        _, logits = self._stack.step(rows, (cos[:num_rows], sin[:num_rows]), view, head)
        assert logits is not None
        return logits[step.rows_per_seq - 1 :: step.rows_per_seq]

    def _plan(self, positions: list[int]) -> _Pass:
        max_seqs = len(self._pages)
        at = torch.tensor(positions)
        pages = self._pages.repeat_interleave(len(positions), 0)
        view = CacheView(self._k, self._v, pages, lengths=(at + 1).int().repeat(max_seqs))
        rope = self._predictor.stack.rope(at.repeat(max_seqs))
        return _Pass(view, rope, len(positions))
