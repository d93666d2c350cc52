"""Which speech checkpoints share a codec."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3_audio.engine.codecs import SharedCodecs
from qwen3_audio.engine.device import Device
from qwen3_audio.errors import StartError
from qwen3_audio.settings import Settings


@pytest.fixture
def codecs() -> SharedCodecs:
    return SharedCodecs(Device.choose(Settings.from_env({"QWEN_TTS_DTYPE": "float32"})))


@pytest.fixture
def copy(tiny_tts: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_tts / "tiny-Base", tmp_path / "copy")
    return tmp_path / "copy"


def test_a_copy_shares_the_codec(codecs: SharedCodecs, tiny_tts: Path, copy: Path) -> None:
    assert codecs.load(copy) is codecs.load(tiny_tts / "tiny-Base")


def test_other_weights_of_the_same_size_are_another_codec(
    codecs: SharedCodecs, tiny_tts: Path, copy: Path
) -> None:
    original = codecs.load(tiny_tts / "tiny-Base")
    path = copy / "speech_tokenizer" / "model.safetensors"
    weights = load_file(path)
    name = "decoder.pre_conv.conv.weight"
    weights[name] = weights[name] + 1
    save_file(weights, path)
    other = codecs.load(copy)
    difference = other.decoder.pre_conv.weight - original.decoder.pre_conv.weight
    assert torch.equal(difference.round(), torch.ones_like(difference))


def test_another_config_is_another_codec(codecs: SharedCodecs, tiny_tts: Path, copy: Path) -> None:
    original = codecs.load(tiny_tts / "tiny-Base")
    path = copy / "speech_tokenizer" / "config.json"
    path.write_text(path.read_text("utf-8").replace("{", '{"remark": 1, ', 1), "utf-8")
    assert codecs.load(copy) is not original


def test_a_missing_codec_is_named(codecs: SharedCodecs, copy: Path) -> None:
    shutil.rmtree(copy / "speech_tokenizer")
    with pytest.raises(StartError, match="speech_tokenizer"):
        codecs.load(copy)
