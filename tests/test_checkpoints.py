"""What a folder holds, and which file of it is missing or cut off."""

import json
import shutil
from pathlib import Path

import pytest

from qwen3_audio.checkpoints import find_damage, open_checkpoint, read_kind
from qwen3_audio.errors import StartError
from qwen3_audio.random_weights.asr import write_asr_checkpoint
from qwen3_audio.types import ModelKind


@pytest.fixture
def speech(tiny_tts: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_tts / "tiny-Base", tmp_path / "speech")


def test_config_says_what_a_checkpoint_is_for(tiny_tts: Path, tiny_asr: Path) -> None:
    kinds = {
        tiny_tts / "tiny-Base": ModelKind.BASE,
        tiny_tts / "tiny-CustomVoice": ModelKind.CUSTOM_VOICE,
        tiny_tts / "tiny-VoiceDesign": ModelKind.VOICE_DESIGN,
        tiny_asr / "tiny-asr": ModelKind.ASR,
        tiny_asr / "tiny-aligner": ModelKind.ALIGNER,
    }
    for folder, kind in kinds.items():
        assert open_checkpoint(folder).kind is kind


@pytest.mark.parametrize(("preset", "kind"), [("tiny-asr", "asr"), ("tiny-aligner", "aligner")])
def test_the_flat_layout_is_told_apart_too(tmp_path: Path, preset: str, kind: str) -> None:
    write_asr_checkpoint(tmp_path, preset=preset, layout="hf")
    assert open_checkpoint(tmp_path).kind == kind


def test_shards_count_as_weights(tmp_path: Path) -> None:
    write_asr_checkpoint(tmp_path, num_shards=2)
    assert find_damage(tmp_path) is None
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert f"{shard.name} is missing" in str(find_damage(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "speech_tokenizer/config.json",
        "speech_tokenizer/model.safetensors",
    ],
)
def test_a_missing_file_is_named(speech: Path, name: str) -> None:
    (speech / name).unlink()
    with pytest.raises(StartError, match=f"incomplete: {name} is missing"):
        open_checkpoint(speech)


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "not JSON"])
def test_json_that_is_damaged_is_named(speech: Path, name: str, text: str) -> None:
    (speech / name).write_text(text, "utf-8")
    with pytest.raises(StartError, match=f"incomplete: {name} is not JSON"):
        open_checkpoint(speech)


@pytest.mark.parametrize("name", ["model.safetensors", "speech_tokenizer/model.safetensors"])
@pytest.mark.parametrize("num_bytes", [0, 7, 8, 100, -1])
def test_weights_that_are_cut_off_are_named(speech: Path, name: str, num_bytes: int) -> None:
    data = (speech / name).read_bytes()
    (speech / name).write_bytes(data[:num_bytes])
    assert f"{name} is " in str(find_damage(speech))
    assert "cut off" in str(find_damage(speech))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "has no model type"),
        ('{"model_type": "llama"}', "has llama"),
        ('{"tts_model_type": "song"}', "tts_model_type is 'song', not one of custom_voice"),
        ('{"tts_model_type": ["base"]}', "not one of"),
        ('{"thinker_config": {"model_type": "qwen2"}}', "has no model type"),
        ('{"thinker_config": []}', "has no model type"),
        ('{"model_type": "qwen2_audio", "audio_config": {}, "text_config": {}}', "has qwen2_audio"),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StartError) as caught:
        read_kind(tmp_path)
    assert words in str(caught.value)
    assert str(find_damage(tmp_path)) == str(caught.value)


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    assert find_damage(tmp_path) == f"{tmp_path} is no checkpoint: it has no config.json"
    assert find_damage(tmp_path / "x") == f"There is no folder {tmp_path / 'x'}"


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_names_nothing_is_refused(speech: Path, index: str) -> None:
    (speech / "model.safetensors.index.json").write_text(index)
    assert "names no weight files" in str(find_damage(speech))


@pytest.mark.parametrize("header", [[], {"a": 1}, {"a": {"data_offsets": []}}, {"a": {}}])
def test_a_header_without_offsets_is_damage(speech: Path, header: object) -> None:
    body = json.dumps(header).encode()
    (speech / "model.safetensors").write_bytes(len(body).to_bytes(8, "little") + body)
    assert "is no safetensors file" in str(find_damage(speech))
