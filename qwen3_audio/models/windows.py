"""Windows of audio tokens: which rows attend to each other when several clips are packed.

Letters in shapes: R rows (tokens of all windows, packed), E head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Windows:
    """Rows in the order of their windows, windows of equal length side by side.

    A window attends only to itself. `mask` is bool [windows, 1, 1, length], True where there is
    a token; with it all windows are one group padded to one length, a shape that repeats.
    """

    groups: tuple[tuple[int, int], ...]  # (windows, their length)
    mask: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        return [length for count, length in self.groups for _ in range(count)]

    def attend(self, qkv: Tensor) -> Tensor:
        """qkv [R, 3, heads, E] → [R, heads * E]."""
        parts = qkv.split([count * length for count, length in self.groups])
        outs = [
            self._attend_group(part.view(*group, *part.shape[1:]))
            for part, group in zip(parts, self.groups, strict=True)
        ]
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _attend_group(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [windows, heads, length, E]
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return out.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[3])


@dataclass(frozen=True, slots=True)
class Span:
    """One window: which clip it is of, and where its tokens lie among those of all chunks."""

    clip: int
    start: int
    length: int


def window_spans(num_tokens: Sequence[int], *, chunk_tokens: int, window_tokens: int) -> list[Span]:
    """The windows of all clips, the longest first; those of a clip stay in their order.

    The tokens of the clips' chunks lie one after the other, each clip's last chunk in full.
    """
    spans = []
    start = 0
    for clip, num in enumerate(num_tokens):
        spans += [
            Span(clip, start + at, min(window_tokens, num - at))
            for at in range(0, num, window_tokens)
        ]
        start += -(-num // chunk_tokens) * chunk_tokens
    return sorted(spans, key=lambda span: -span.length)


def arrange_windows(
    spans: Sequence[Span], *, pad_to: int | None, device: torch.device
) -> tuple[Tensor, Windows]:
    """Rows to take from the tokens of all chunks, int64 [R], and their windows.

    With `pad_to` every window has that many rows; the surplus repeats its last token, unseen.
    """
    rows = [
        span.start + torch.arange(pad_to or span.length).clamp(max=span.length - 1)
        for span in spans
    ]
    groups = tuple((len(list(same)), length) for length, same in groupby(map(len, rows)))
    mask = None
    if pad_to is not None:
        lengths = torch.tensor([span.length for span in spans])
        mask = (torch.arange(pad_to) < lengths[:, None])[:, None, None].to(device)
    return torch.cat(rows).to(device), Windows(groups, mask)
