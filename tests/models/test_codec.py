"""The codec: streaming in slots is exact, for any sizes, and encoding works piece by piece."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from qwen3_audio.errors import StartError
from qwen3_audio.models import codec_encoder
from qwen3_audio.models.codec import CodecDecoder
from qwen3_audio.models.codec_config import DecoderConfig, EncoderConfig
from qwen3_audio.models.codec_encoder import CodecEncoder
from qwen3_audio.random_weights.codec_tensors import plan_codec_decoder
from qwen3_audio.random_weights.tensors import TensorPlan
from qwen3_audio.random_weights.tts_configs import build_codec_config

NUM_GROUPS = 16
NUM_CODES = 2048
TOLERANCE = 1e-5

Files = tuple[dict[str, Any], Mapping[str, Tensor]]


@pytest.fixture(scope="module")
def files(tiny_tts: Path) -> Files:
    folder = tiny_tts / "tiny-Base" / "speech_tokenizer"
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def decoder(files: Files) -> CodecDecoder:
    return CodecDecoder.from_weights(*files)


@pytest.fixture(scope="module")
def encoder(files: Files) -> CodecEncoder:
    return CodecEncoder.from_weights(*files)


def other_sizes() -> Files:
    """Unlike the published codec in everything that can differ."""
    config = build_codec_config("tiny")
    config["decoder_config"] |= {
        "num_quantizers": 8,
        "codebook_size": 64,
        "latent_dim": 24,
        "codebook_dim": 20,
        "decoder_dim": 20,
        "hidden_size": 16,
        "head_dim": 6,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "num_hidden_layers": 1,
        "sliding_window": 5,
        "upsample_rates": [3, 2],
        "upsampling_ratios": [2],
    }
    plan, generator = TensorPlan(), torch.Generator().manual_seed(0)
    plan_codec_decoder(plan, config["decoder_config"])
    return config, {tensor.name: tensor.draw(generator) for tensor in plan.tensors}


def random_codes(num_rows: int, num_frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(NUM_CODES, (num_rows, num_frames, NUM_GROUPS), generator=generator)


def slots(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def decode_alone(decoder: CodecDecoder, codes: Tensor, lengths: list[int] | None = None) -> Tensor:
    """One sound [samples] of codes [T, Q], in pieces of the given lengths and one for the rest."""
    state, cuts = decoder.new_state(1), list(lengths or [])
    pieces = codes[None].split([*cuts, len(codes) - sum(cuts)], dim=1)
    return torch.cat([decoder.decode(p, state, slots(0))[0] for p in pieces if p.shape[1]])


def assert_same_sound(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def whole_sound(decoder: CodecDecoder) -> Tensor:
    return decode_alone(decoder, random_codes(1, 56)[0])


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), max_size=6))
def test_sound_is_the_same_however_the_frames_are_cut(
    decoder: CodecDecoder, whole_sound: Tensor, lengths: list[int]
) -> None:
    codes = random_codes(1, 56)[0]
    assert_same_sound(decode_alone(decoder, codes, lengths), whole_sound)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), max_size=5))
def test_all_sizes_come_from_the_checkpoint(lengths: list[int]) -> None:
    decoder = CodecDecoder.from_weights(*other_sizes())
    codes = random_codes(1, 31)[0, :, :8] % 64
    assert decoder.samples_per_frame == 12
    whole = decode_alone(decoder, codes)
    assert whole.shape == (31 * 12,)
    assert_same_sound(decode_alone(decoder, codes, lengths), whole)


def test_a_row_is_the_same_alone_and_among_others(decoder: CodecDecoder) -> None:
    codes, state = random_codes(3, 10), decoder.new_state(5)
    together = decoder.decode(codes, state, slots(4, 0, 2))
    for row in range(3):
        assert_same_sound(together[row], decode_alone(decoder, codes[row]))


def test_requests_join_and_leave_between_pieces(decoder: CodecDecoder) -> None:
    codes, state = random_codes(3, 12), decoder.new_state(3)
    first = decoder.decode(codes[:1, :4], state, slots(2))
    both = decoder.decode(torch.stack([codes[1, :4], codes[0, 4:8]]), state, slots(0, 2))
    decoder.reset(state, slots(0))
    last = decoder.decode(torch.stack([codes[0, 8:], codes[2, :4]]), state, slots(2, 0))
    assert_same_sound(torch.cat([first[0], both[1], last[0]]), decode_alone(decoder, codes[0]))
    assert_same_sound(last[1], decode_alone(decoder, codes[2, :4]))


def test_other_slots_stay_as_they_are(decoder: CodecDecoder) -> None:
    state = decoder.new_state(3)
    decoder.decode(random_codes(3, 5), state, slots(0, 1, 2))
    before = state.snapshot(1)
    decoder.decode(random_codes(2, 5, seed=1), state, slots(0, 2))
    decoder.reset(state, slots(2))
    for old, new in zip(before.tensors, state.snapshot(1).tensors, strict=True):
        assert torch.equal(old, new)


def test_a_snapshot_goes_on_in_any_slot_any_number_of_times(decoder: CodecDecoder) -> None:
    codes, state = random_codes(1, 20), decoder.new_state(3)
    decoder.decode(codes[:, :12], state, slots(1))
    snapshot = state.snapshot(1)
    expected = decode_alone(decoder, codes[0])[12 * decoder.samples_per_frame :]
    for slot in (0, 2, 0):
        state.restore(slot, snapshot)
        assert_same_sound(decoder.decode(codes[:, 12:], state, slots(slot))[0], expected)


@pytest.mark.parametrize("num_frames", [1, 9, 10, 11, 40])
def test_warming_up_leaves_the_state_of_decoding(decoder: CodecDecoder, num_frames: int) -> None:
    codes, state = random_codes(2, num_frames + 6), decoder.new_state(2)
    decoder.warm(codes[:, :num_frames], state, slots(1, 0))
    samples = decoder.decode(codes[:, num_frames:], state, slots(1, 0))
    for row in range(2):
        whole = decode_alone(decoder, codes[row])
        assert_same_sound(samples[row], whole[num_frames * decoder.samples_per_frame :])


def test_warming_up_in_two_pieces_is_warming_up(decoder: CodecDecoder) -> None:
    codes, state = random_codes(1, 30), decoder.new_state(1)
    decoder.warm(codes[:, :20], state, slots(0))
    decoder.warm(codes[:, 20:23], state, slots(0))
    samples = decoder.decode(codes[:, 23:], state, slots(0))[0]
    assert_same_sound(samples, decode_alone(decoder, codes[0])[23 * decoder.samples_per_frame :])


def test_frame_n_is_the_nth_1920_samples(decoder: CodecDecoder) -> None:
    codes = random_codes(1, 20)[0]
    changed = codes.clone()
    changed[11:] = 0
    before, after = decode_alone(decoder, codes), decode_alone(decoder, changed)
    num_same = 11 * decoder.samples_per_frame
    assert decoder.samples_per_frame == 1920
    assert_same_sound(before[:num_same], after[:num_same])
    assert (before[num_same:] - after[num_same:]).abs().max() > 0.01


def test_samples_are_float32_between_minus_one_and_one(decoder: CodecDecoder) -> None:
    samples = decode_alone(decoder, random_codes(1, 20)[0])
    assert samples.dtype == torch.float32
    assert samples.abs().max() == 1.0  # the tiny weights are loud enough to be cut off


def test_bfloat16_sounds_like_float32(files: Files) -> None:
    config, weights = files
    # Rounding is chaotic in random weights; a tenth of the amplitude makes them smooth.
    gentle = {
        n: t * 0.1 if "decoder.decoder" in n and "conv1" in n else t for n, t in weights.items()
    }
    exact = CodecDecoder.from_weights(config, gentle)
    rounded = CodecDecoder.from_weights(config, gentle, dtype=torch.bfloat16)
    codes = random_codes(1, 8)[0]
    expected, actual = decode_alone(exact, codes), decode_alone(rounded, codes, [1, 3])
    assert actual.dtype == torch.float32
    assert {t.dtype for t in rounded.new_state(1).tensors()} == {torch.bfloat16, torch.int64}
    noise, signal = (actual - expected).pow(2).mean(), expected.pow(2).mean()
    assert noise < signal / 100


def test_decoding_never_asks_for_the_value_of_a_tensor(files: Files) -> None:
    """A call that can run without any values can be captured in a CUDA graph."""
    config, weights = files
    on_meta = {name: tensor.to("meta") for name, tensor in weights.items()}
    decoder = CodecDecoder.from_weights(config, on_meta)
    state, index = decoder.new_state(4), torch.empty(2, dtype=torch.int64, device="meta")
    codes = torch.empty(2, 5, NUM_GROUPS, dtype=torch.int64, device="meta")
    decoder.reset(state, index)
    decoder.warm(codes, state, index)
    assert decoder.decode(codes, state, index).shape == (2, 5 * 1920)


def test_left_out_numbers_have_the_official_defaults() -> None:
    published = build_codec_config("1.7b")
    decoder = {"head_dim": 64, "decoder_dim": 1536}
    short = {"decoder_config": decoder, "encoder_config": {}}
    assert DecoderConfig.from_json(short) == DecoderConfig.from_json(published)
    assert EncoderConfig.from_json(short) == EncoderConfig.from_json(published)


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_a_config_without_one_half_is_refused_by_name(files: Files, half: str) -> None:
    config = {key: value for key, value in files[0].items() if key != f"{half}_config"}
    model = CodecDecoder if half == "decoder" else CodecEncoder
    with pytest.raises(StartError, match=f"{half}_config"):
        model.from_weights(config, files[1])


@pytest.mark.parametrize("num_samples", [1, 1919, 1920, 1921, 5000, 48_001])
def test_references_have_a_row_of_codes_for_each_frame_begun(
    encoder: CodecEncoder, num_samples: int
) -> None:
    codes = encoder.encode(torch.zeros(num_samples))
    assert codes.shape == (-(-num_samples // 1920), NUM_GROUPS)
    assert codes.dtype == torch.int16


def test_encoding_in_pieces_is_encoding(
    encoder: CodecEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = torch.randn(47_123, generator=torch.Generator().manual_seed(0)) * 0.1
    monkeypatch.setattr(codec_encoder, "_PIECE_FRAMES", 1000)
    whole = encoder.encode(samples)
    monkeypatch.setattr(codec_encoder, "_PIECE_FRAMES", 3)
    assert torch.equal(encoder.encode(samples), whole)


def test_earlier_codes_do_not_depend_on_what_follows(encoder: CodecEncoder) -> None:
    samples = torch.randn(40 * 1920, generator=torch.Generator().manual_seed(0)) * 0.1
    codes = encoder.encode(samples)
    assert torch.equal(encoder.encode(samples[: 21 * 1920])[:20], codes[:20])


def test_codes_say_something_about_the_sound(encoder: CodecEncoder) -> None:
    loud = torch.randn(20 * 1920, generator=torch.Generator().manual_seed(0)) * 0.3
    assert (encoder.encode(loud) != encoder.encode(torch.zeros(20 * 1920))).float().mean() > 0.5
