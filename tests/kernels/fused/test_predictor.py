"""All passes of a frame, with plain twins, against the plain predictor and the engine's choice."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qwen3_audio.engine.sampling import RowSettings, choose, draw_keys
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.predictor import FusedPredictor
from qwen3_audio.kernels.fused.shapes import SampleRows
from qwen3_audio.models.code_predictor import CodePredictor, FrameCache
from qwen3_audio.models.configs import TalkerConfig

CPU = torch.device("cpu")
MIXED = [(0.9, 50, 1.0), (0.0, 50, 1.0), (1.3, 0, 0.8), (0.7, 3, 1.0), (1.0, 0, 1.0)]


class FewRows(FusedOps):
    """The way of few rows, with twins."""

    max_few_rows = 4


@pytest.fixture(params=["a projection", "the same width"])
def predictor(
    request: pytest.FixtureRequest, tiny_tts: Path, tiny_tts_same_width: Path
) -> CodePredictor:
    folder = tiny_tts if request.param == "a projection" else tiny_tts_same_width
    folder /= "tiny-CustomVoice"
    config = TalkerConfig.from_json(json.loads((folder / "config.json").read_text()))
    weights = {
        name: tensor.float()
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    return CodePredictor(config, weights, torch.float32)


def inputs(predictor: CodePredictor, num_seqs: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_seqs)
    width = predictor.embedding.shape[1]
    hidden, first = (torch.randn(num_seqs, width, generator=generator) for _ in range(2))
    seeds = torch.arange(num_seqs) + 10
    return hidden, first, draw_keys(seeds, torch.full_like(seeds, 3), predictor.num_groups)


def rows_of(built: RowSettings) -> SampleRows:
    return SampleRows(built.temperature, built.top_k, built.top_p)


@pytest.mark.parametrize("ops", [FusedOps(), FewRows()], ids=["many", "few"])
@pytest.mark.parametrize("num_seqs", [1, 2, 5])
@torch.inference_mode()
def test_codes_are_those_of_the_plain_predictor(
    predictor: CodePredictor, num_seqs: int, ops: FusedOps
) -> None:
    hidden, first, keys = inputs(predictor, num_seqs)
    built = RowSettings.build(MIXED[:num_seqs], predictor.codebook_size, CPU)
    fast = FusedPredictor(ops, predictor, max_seqs=6)
    for _ in range(2):  # what a frame leaves behind is nothing to the next
        got = fast(hidden, first, keys, rows_of(built))
        expected = predictor(
            hidden,
            first,
            lambda logits, group: choose(logits, keys[:, group], built),
            FrameCache(predictor, 6),
        )
        assert torch.equal(got, expected)
        hidden, first = first, hidden


@torch.inference_mode()
def test_a_sequence_has_the_same_codes_alone_and_in_a_batch(predictor: CodePredictor) -> None:
    hidden, first, keys = inputs(predictor, 5)
    fast = FusedPredictor(FusedOps(), predictor, max_seqs=5)
    built = RowSettings.build(MIXED, predictor.codebook_size, CPU)
    together = fast(hidden, first, keys, rows_of(built))
    for row in range(5):
        part = slice(row, row + 1)
        alone = RowSettings.build(MIXED[part], predictor.codebook_size, CPU)
        codes = fast(hidden[part], first[part], keys[part], rows_of(alone))
        assert torch.equal(codes, together[part])
