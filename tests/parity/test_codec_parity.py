"""The codec and the speaker encoder against the official package with the same weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tts_sounds import LONG_REFERENCE, SHORT_REFERENCE, make_reference

from qwen3_audio.models.codec import CodecDecoder
from qwen3_audio.models.codec_encoder import CodecEncoder
from qwen3_audio.models.speaker import SpeakerEncoder

GOLDEN = np.load(Path(__file__).with_name("golden_tts.npz"))
CASES: list[dict[str, Any]] = json.loads(str(GOLDEN["cases"]))
WITH_SOUND = [case for case in CASES if case["audio"]]
WIDTHS = ("tiny", "tiny-same-width")
REFERENCES = (SHORT_REFERENCE, LONG_REFERENCE)
TOLERANCE = 1e-5
SLOT = torch.tensor([0])


@pytest.fixture(scope="module")
def folders(tiny_tts: Path, tiny_tts_same_width: Path) -> dict[str, Path]:
    return dict(zip(WIDTHS, (tiny_tts, tiny_tts_same_width), strict=True))


def read_codec(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    codec = folder / "speech_tokenizer"
    return json.loads((codec / "config.json").read_text()), load_file(codec / "model.safetensors")


@pytest.fixture(scope="module")
def decoder(tiny_tts: Path) -> CodecDecoder:
    return CodecDecoder.from_weights(*read_codec(tiny_tts / "tiny-Base"))


@pytest.fixture(scope="module")
def encoder(tiny_tts: Path) -> CodecEncoder:
    return CodecEncoder.from_weights(*read_codec(tiny_tts / "tiny-Base"))


def decode(decoder: CodecDecoder, codes: NDArray[np.int16], piece: int | None = None) -> Any:
    """codes [frames, groups] as one sound, whole or in pieces of so many frames."""
    state = decoder.new_state(1)
    pieces = torch.from_numpy(codes.astype(np.int64))[None].split(piece or len(codes), dim=1)
    return torch.cat([decoder.decode(part, state, SLOT)[0] for part in pieces]).numpy()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("checkpoint", ["tiny-Base", "tiny-CustomVoice", "tiny-VoiceDesign"])
def test_the_weights_are_those_of_the_recording(
    folders: dict[str, Path], width: str, checkpoint: str
) -> None:
    folder = folders[width] / checkpoint
    table = load_file(folder / "model.safetensors")["talker.model.codec_embedding.weight"]
    conv = read_codec(folder)[1]["decoder.pre_conv.conv.weight"]
    probe = np.concatenate([table[2000, :8], conv[0, :8, 0]])
    np.testing.assert_allclose(probe, GOLDEN[f"probe/{width}/{checkpoint}"], atol=1e-6)


def test_forty_frames_sound_as_the_official_decoder_makes_them(decoder: CodecDecoder) -> None:
    samples = decode(decoder, GOLDEN["codec/codes"][:40])
    np.testing.assert_allclose(samples, GOLDEN["codec/short/audio"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("piece", [None, 1, 4, 12], ids=lambda piece: f"pieces-of-{piece}")
def test_long_sound_is_exact_however_it_is_cut(decoder: CodecDecoder, piece: int | None) -> None:
    samples = decode(decoder, GOLDEN["codec/codes"], piece)
    np.testing.assert_allclose(
        samples[::89], GOLDEN["codec/long/every-89th"], rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("case", WITH_SOUND, ids=lambda case: case["name"])
@pytest.mark.parametrize("piece", [None, 3], ids=lambda piece: f"pieces-of-{piece}")
def test_recorded_speech_sounds_the_same(
    folders: dict[str, Path], case: dict[str, Any], piece: int | None
) -> None:
    decoder = CodecDecoder.from_weights(*read_codec(folders[case["width"]] / case["checkpoint"]))
    codes, num_before = GOLDEN[case["codes"]], 0
    if "reference_text" in case["request"]:
        reference = GOLDEN[f"reference/{case['request']['reference']}/{case['width']}/codes"]
        codes, num_before = np.concatenate([reference, codes]), len(reference)
    samples = decode(decoder, codes, piece)[num_before * decoder.samples_per_frame :]
    np.testing.assert_allclose(samples, GOLDEN[case["audio"]], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("num_samples", REFERENCES)
def test_references_get_the_official_codes(encoder: CodecEncoder, num_samples: int) -> None:
    codes = encoder.encode(torch.from_numpy(make_reference(num_samples)))
    np.testing.assert_array_equal(codes, GOLDEN[f"reference/{num_samples}/tiny/codes"])


@pytest.mark.parametrize("num_samples", REFERENCES)
@pytest.mark.parametrize("width", WIDTHS)
def test_references_get_the_official_speaker_vector(
    folders: dict[str, Path], width: str, num_samples: int
) -> None:
    folder = folders[width] / "tiny-Base"
    config = json.loads((folder / "config.json").read_text())["speaker_encoder_config"]
    encoder = SpeakerEncoder.from_weights(config, load_file(folder / "model.safetensors"))
    vector = encoder(torch.from_numpy(make_reference(num_samples)))
    expected = GOLDEN[f"reference/{num_samples}/{width}/vector"]
    np.testing.assert_allclose(vector, expected, rtol=0, atol=TOLERANCE)
