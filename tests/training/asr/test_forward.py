"""The training's forward pass is the product's, and what it writes is what the product loads."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qwen3_audio.engine.asr_prompt import build_prompt
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.engine.weights import GenerationDefaults, Weights, read_json
from qwen3_audio.models.asr import AsrConfig, AudioEncoder, num_audio_tokens
from qwen3_audio.models.qwen3 import Stack
from qwen3_audio.random_weights.asr_configs import AsrSize, DecoderSize, EncoderSize
from training.asr.checkpoint import learn_vocabulary, write_settings, write_weights
from training.asr.model import WINDOW_TOKENS, decode, embed, encode, num_tokens
from training.asr.weights import NUM_TOKENS, draw_weights, tensor_shapes

pytestmark = pytest.mark.slow  # of the training, not of the product

SMALL = AsrSize(
    EncoderSize(num_layers=2, width=32, num_heads=2, inner=48, conv_channels=8),
    DecoderSize(num_layers=2, hidden=24, num_heads=4, num_kv_heads=2, head_dim=16, inner=40),
    vocab_size=NUM_TOKENS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint of the small size, with weights that are exact in bfloat16."""
    folder = tmp_path_factory.mktemp("pocket-asr")
    write_settings(folder, learn_vocabulary(num_sentences=3000), SMALL)
    write_weights(folder, small_weights())
    return folder


def small_weights() -> dict[str, Tensor]:
    drawn = draw_weights(SMALL, seed=3)
    return {name: tensor.bfloat16().float() for name, tensor in drawn.items()}


def load(folder: Path) -> Weights:
    return Weights(folder, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("num_frames", [1, 7, 60, 100, 101, 250, 1000])
def test_the_tower_gives_the_products_embeddings(folder: Path, num_frames: int) -> None:
    mels = torch.randn(3, num_frames, 128, generator=torch.Generator().manual_seed(1))
    config = AsrConfig.from_json(read_json(folder / "config.json"))
    product = AudioEncoder(config.audio, load(folder)).encode([mel.T for mel in mels])
    ours = encode(small_weights(), SMALL, mels)
    assert num_tokens(num_frames) == num_audio_tokens(num_frames) == ours.shape[1]
    torch.testing.assert_close(ours, torch.stack(product), atol=2e-5, rtol=1e-4)


def test_a_clip_longer_than_the_window_is_one_of_these() -> None:
    assert num_tokens(1000) > WINDOW_TOKENS


def look_back(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over rows of one prompt, as the product's stack asks for it."""
    heads = (part.transpose(0, 1) for part in (q, k, v))
    mixed = scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
    return mixed.transpose(0, 1).flatten(1)


def test_the_decoder_gives_the_products_stream(folder: Path) -> None:
    config = AsrConfig.from_json(read_json(folder / "config.json"))
    stack = Stack(config.stack, load(folder), "thinker.model.", torch.float32)
    rows = torch.randn(1, 12, 24, generator=torch.Generator().manual_seed(2))
    ours, middle = decode(small_weights(), SMALL, rows, middle=1)
    product = stack(rows[0], stack.rope(torch.arange(12)), look_back)
    torch.testing.assert_close(ours[0], product, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(middle, rows)


def test_every_tensor_is_there_once_and_the_head_is_the_embedding(folder: Path) -> None:
    config = AsrConfig.from_json(read_json(folder / "config.json"))
    assert config.is_tied and config.languages == ("English",)
    assert set(load(folder)) == set(tensor_shapes(SMALL))


def test_all_ids_are_inside_the_vocabulary(folder: Path) -> None:
    tokenizer = TextTokenizer(folder)
    prompt = build_prompt(tokenizer, 5, context="Good morning", language="English")
    assert max(prompt.ids) < NUM_TOKENS
    assert max(GenerationDefaults.read(folder).eos_ids) < NUM_TOKENS
    assert embed(small_weights(), torch.tensor(prompt.ids)).shape == (len(prompt.ids), 24)
