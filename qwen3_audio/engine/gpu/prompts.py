"""Prompts of several speech requests embedded together, without waiting for the device.

Letters in shapes: R rows of all prompts, D talker width, Q code groups.
"""

from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from qwen3_audio.engine.gpu.graphs import Lane
from qwen3_audio.engine.prompts import NONE, Prompt
from qwen3_audio.models.talker import Talker


def embed_prompts(lane: Lane, talker: Talker, prompts: Seq[Prompt]) -> Tensor:
    """The rows of all prompts, one prompt after the other, [R, D]."""
    ids = [(row.text_id, row.codec_id) for prompt in prompts for row in prompt.rows]
    text_ids, codec_ids = lane.upload(np.array(ids, np.int64).T)
    codec = talker.embed_codec(codec_ids.clamp(min=0))
    rows = talker.embed_text(text_ids) + torch.where((codec_ids != NONE)[:, None], codec, 0)
    start = 0
    for prompt in prompts:
        _add_voice(lane, talker, prompt, rows[start : start + len(prompt.rows)])
        start += len(prompt.rows)
    return rows


def _add_voice(lane: Lane, talker: Talker, prompt: Prompt, rows: Tensor) -> None:
    """A speaker's vector to one row, a reference's frames to the rows that stand for them."""
    if prompt.voice is not None and prompt.vector_row is not None:
        vector = lane.upload(np.asarray(prompt.voice.speaker_vector, np.float32))
        rows[prompt.vector_row] += vector.to(rows.dtype)
    if prompt.reference is not None and prompt.reference_row is not None:
        codes = lane.upload(prompt.reference.astype(np.int64))
        start = prompt.reference_row
        rows[start : start + len(codes)] += talker.embed_frames(codes)
