"""What is trained here and what the product runs are the same networks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qwen3_audio.models import codec as product_codec
from qwen3_audio.models import codec_encoder as product_encoder
from qwen3_audio.models.configs import TalkerConfig
from qwen3_audio.models.qwen3 import grouped_attention
from qwen3_audio.models.speaker import SpeakerEncoder
from qwen3_audio.models.talker import Talker as ProductTalker
from training.tts.assemble import checkpoint_config
from training.tts.codec import Batch, build_decoder, codec_config, losses_of
from training.tts.encoder import build_encoder, encoder_config
from training.tts.examples import ExampleMaker, Mix
from training.tts.features import FRAME
from training.tts.lexicon import Lexicon, with_speaker
from training.tts.quantiser import NUM_CODES
from training.tts.speaker import SpeakerNet, speaker_config
from training.tts.talker import build_talker, with_aliases
from training.tts.talker import losses_of as talker_losses
from training.tts.vocoder import Snake
from training.tts.voices import VOICES

pytestmark = pytest.mark.slow  # of the training, not of the product


def named(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value.detach() for name, value in model.state_dict().items()}


def perturb(model: nn.Module) -> None:
    """Away from the zeros and ones of a fresh start, which could hide a swapped tensor."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1 and parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))


def random_codes(num_rows: int, num_frames: int, lexicon: Lexicon) -> Tensor:
    frames = np.random.default_rng(0).integers(len(lexicon.codes), size=(num_rows, num_frames))
    return torch.from_numpy(lexicon.codes[frames])


def test_decoders_sound_alike(lexicon: Lexicon) -> None:
    decoder = build_decoder(lexicon).eval()
    perturb(decoder)
    codes = random_codes(2, 12, lexicon)
    config = {"decoder_config": codec_config()}
    product = product_codec.CodecDecoder.from_weights(config, named(decoder, "decoder."))
    with torch.no_grad():
        ours = decoder(codes).clamp(-1, 1)
        theirs = product.decode(codes, product.new_state(2), torch.arange(2))
    assert ours.abs().max() > 1e-3
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_encoders_find_the_same_codes(lexicon: Lexicon) -> None:
    encoder = build_encoder(lexicon).eval()
    perturb(encoder)
    config = {"encoder_config": encoder_config(), "encoder_valid_num_quantizers": 6}
    product = product_encoder.CodecEncoder.from_weights(config, named(encoder, "encoder."))
    samples = 0.3 * torch.randn(1, 9 * FRAME)
    with torch.no_grad():
        semantic, acoustic = (latents[0] for latents in encoder(samples))
        theirs = product.encode(samples[0])
    tables = torch.from_numpy(lexicon.quantiser.tables)
    assert torch.equal(torch.cdist(semantic, tables[0]).argmin(1).short(), theirs[:, 0])
    assert torch.equal(torch.cdist(acoustic, tables[1]).argmin(1).short(), theirs[:, 1])


def test_speaker_encoders_agree_clip_by_clip() -> None:
    net = SpeakerNet(speaker_config(192)).eval()
    product = SpeakerEncoder.from_weights(net.config, net.weights())
    clips = 0.1 * torch.randn(2, 20_000)
    with torch.no_grad():
        ours, theirs = net(clips), torch.stack([product(clip) for clip in clips])
    assert torch.allclose(ours, theirs, atol=1e-4)


class WholeSequence:
    """The product's attention over one sequence without a cache."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        visible = torch.ones(len(q), len(q)).tril().bool()[None, None]
        return grouped_attention(q[None], k[None], v[None], visible)


def test_talkers_agree_on_every_row(lexicon: Lexicon) -> None:
    talker = build_talker(lexicon.vocabulary.size).eval()
    perturb(talker)
    config = TalkerConfig.from_json(checkpoint_config(lexicon, "custom_voice"))
    product = ProductTalker(config, named(talker, "talker."), torch.float32)
    maker = ExampleMaker(lexicon)
    maker.words = ("hello", "world")
    batch = maker.batch(np.random.default_rng(0), Mix(2, 100))
    with torch.no_grad():
        x = talker.embed(batch, batch.frames)[0]
        ours = talker.codec_head(talker.model(x[None])[0])
        rope = product.stack.rope(torch.arange(len(x)))
        theirs = product.logits(product.stack(x, rope, WholeSequence()))
        frames = batch.frames[0][batch.frames[0, :, 0] >= 0]
        text = talker.text_projection(talker.model.text_embedding(batch.text_ids[0]))
        assert torch.allclose(text, product.embed_text(batch.text_ids[0]), atol=1e-5)
        summed = talker.model.codec_embedding(frames[:, 0]) + talker.code_predictor.embed(frames)
        assert torch.allclose(summed, product.embed_frames(frames), atol=1e-5)
    assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_talker_learns_to_say_one_batch(lexicon: Lexicon, dtype: torch.dtype) -> None:
    talker = build_talker(lexicon.vocabulary.size)
    maker = ExampleMaker(lexicon)
    maker.words = ("hello", "world", "river")
    batch = maker.batch(np.random.default_rng(0), Mix(2, 120))
    optimiser = torch.optim.AdamW(talker.parameters(), lr=3e-3)
    wrong = []
    for _ in range(14):
        losses = talker_losses(talker, batch, noise=0.1, dtype=dtype)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        wrong.append(float(losses["first_wrong"]))
    assert wrong[0] > 0.9
    assert wrong[-1] < 0.5


def test_rows_that_are_copies_are_written_so(lexicon: Lexicon) -> None:
    talker = build_talker(lexicon.vocabulary.size)
    ids = lexicon.vocabulary.ids
    table = with_aliases(talker, lexicon.vocabulary.aliases()).model.text_embedding.weight
    assert torch.equal(table[ids["Hello"]], table[ids["hello"]])
    before = talker.model.text_embedding.weight
    for name in ("Hello", "Ċ"):
        assert torch.equal(table[ids[name.lower() if name == "Hello" else name]],
                           before[ids[name.lower() if name == "Hello" else name]])  # fmt: skip


def test_the_activation_has_the_gradient_of_its_formula() -> None:
    snake = Snake(3)
    torch.manual_seed(0)
    snake.alpha.data.normal_()
    snake.beta.data.normal_()
    x = torch.randn(2, 3, 5, requires_grad=True)
    amplitude = 1 / (snake.beta.exp()[:, None] + 1e-9)
    plain = x + amplitude * (x * snake.alpha.exp()[:, None]).sin() ** 2
    weights = torch.randn_like(plain)
    inputs = (x, snake.alpha, snake.beta)
    wanted = torch.autograd.grad((plain * weights).sum(), inputs)
    found = torch.autograd.grad((snake(x) * weights).sum(), inputs)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_a_wrong_first_frame_costs_the_codec_more_than_a_wrong_second(lexicon: Lexicon) -> None:
    names = ["word hello", "word world"]
    codes = torch.from_numpy(
        with_speaker(np.concatenate([lexicon.unit_codes(n) for n in names]), VOICES[0])
    )[None]
    samples = torch.from_numpy(lexicon.say(names, VOICES[0]))[None]
    decoder = build_decoder(lexicon)
    costs = []
    for frame in (0, 1):
        is_onset = torch.zeros(codes.shape[:2], dtype=torch.bool)
        is_onset[0, 0] = True
        spoilt = samples.clone()
        spoilt[:, frame * FRAME : (frame + 1) * FRAME] += 0.5
        with torch.no_grad():
            losses: Mapping[str, Tensor] = losses_of(decoder, Batch(codes, spoilt, is_onset))
        costs.append(float(losses["plain"]))
    assert costs[0] > costs[1]
    assert int(codes.max()) < NUM_CODES


def test_untrained_states_are_named(tmp_path: Path, lexicon: Lexicon) -> None:
    from training.tts.assemble import NotTrained, assemble

    lexicon.save(tmp_path / "lexicon")
    with pytest.raises(NotTrained, match="run the stage talker first"):
        assemble(tmp_path, tmp_path / "out")
