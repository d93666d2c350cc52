"""Random checkpoints are complete, repeatable, and as large as the published ones."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from qwen3_audio.random_weights.asr import plan_asr, write_asr_checkpoint
from qwen3_audio.random_weights.asr_configs import ASR_PRESETS
from qwen3_audio.random_weights.codec_tensors import plan_codec_decoder, plan_codec_encoder
from qwen3_audio.random_weights.tensors import TensorPlan, write_tensors
from qwen3_audio.random_weights.tts import write_tts_checkpoint
from qwen3_audio.random_weights.tts_configs import build_codec_config, build_tts_config
from qwen3_audio.random_weights.tts_tensors import plan_speaker_encoder, plan_talker
from qwen3_audio.random_weights.vocabulary import (
    NUM_REAL_TOKENS,
    REAL_ASR_ADDED,
    REAL_TTS_ADDED,
    Vocabulary,
    build_tiny_tts_vocabulary,
    build_word_vocabulary,
)

TEXT_FILES = {"config.json", "generation_config.json", "preprocessor_config.json"}
TEXT_FILES |= {"tokenizer_config.json", "vocab.json", "merges.txt"}
CODEC_FILES = {"config.json", "configuration.json", "preprocessor_config.json"}
REAL_ADDED_IDS = {
    "<|im_start|>": 151_644,
    "<|im_end|>": 151_645,
    "<tts_pad>": 151_671,
    "<tts_text_bos>": 151_672,
    "<tts_text_eod>": 151_673,
}


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def count_millions(plan: TensorPlan) -> float:
    return round(sum(tensor.num_values for tensor in plan.tensors) / 1e6, 1)


def tokenize(vocabulary: Vocabulary, text: str) -> list[int]:
    tokenizer = Tokenizer(models.BPE(vocabulary.tokens, vocabulary.merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ids: list[int] = tokenizer.encode(text).ids
    return ids


@pytest.mark.parametrize("name", ["tiny-Base", "tiny-CustomVoice", "tiny-VoiceDesign"])
def test_a_speech_checkpoint_has_the_eleven_official_files(tiny_tts: Path, name: str) -> None:
    folder = tiny_tts / name
    assert file_names(folder) == TEXT_FILES | {"model.safetensors"}
    assert file_names(folder / "speech_tokenizer") == CODEC_FILES | {"model.safetensors"}


@pytest.mark.parametrize("name", ["tiny-asr", "tiny-aligner"])
def test_a_recognition_checkpoint_has_all_official_files(tiny_asr: Path, name: str) -> None:
    files = TEXT_FILES | {"model.safetensors", "chat_template.json"}
    assert file_names(tiny_asr / name) == files


def test_only_a_base_checkpoint_hears_references(tiny_tts: Path) -> None:
    for name, hears in (("tiny-Base", True), ("tiny-CustomVoice", False)):
        config = json.loads((tiny_tts / name / "config.json").read_text())
        weights = load_file(tiny_tts / name / "model.safetensors")
        assert ("speaker_encoder_config" in config) is hears
        assert any(key.startswith("speaker_encoder.") for key in weights) is hears


def test_only_different_widths_need_a_projection(tiny_tts: Path, tiny_tts_same_width: Path) -> None:
    name = "talker.code_predictor.small_to_mtp_projection.weight"
    assert name in load_file(tiny_tts / "tiny-Base" / "model.safetensors")
    assert name not in load_file(tiny_tts_same_width / "tiny-Base" / "model.safetensors")


def test_one_seed_gives_one_checkpoint(tiny_tts: Path, tmp_path: Path) -> None:
    write_tts_checkpoint(tmp_path / "same", "base", seed=0)
    write_tts_checkpoint(tmp_path / "other", "base", seed=5)
    for part in (".", "speech_tokenizer"):
        expected = (tiny_tts / "tiny-Base" / part / "model.safetensors").read_bytes()
        assert (tmp_path / "same" / part / "model.safetensors").read_bytes() == expected
        assert (tmp_path / "other" / part / "model.safetensors").read_bytes() != expected


def test_shards_hold_the_same_tensors_as_one_file(tiny_asr: Path, tmp_path: Path) -> None:
    write_asr_checkpoint(tmp_path, num_shards=3)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    whole = load_file(tiny_asr / "tiny-asr" / "model.safetensors")
    assert len(set(index["weight_map"].values())) == 3
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    for name, tensor in whole.items():
        with safe_open(tmp_path / index["weight_map"][name], framework="pt") as file:
            assert torch.equal(file.get_tensor(name), tensor)


def test_other_precisions_are_the_same_numbers_rounded(tiny_asr: Path, tmp_path: Path) -> None:
    write_asr_checkpoint(tmp_path, dtype="bfloat16")
    exact = load_file(tiny_asr / "tiny-asr" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, exact[name].bfloat16())


def test_the_converted_layout_has_other_names_for_the_same(tiny_asr: Path, tmp_path: Path) -> None:
    for preset, head in (("tiny-asr", "lm_head.weight"), ("tiny-aligner", "score.weight")):
        write_asr_checkpoint(tmp_path / preset, preset=preset, layout="hf")
        config = json.loads((tmp_path / preset / "config.json").read_text())
        assert {"audio_config", "text_config"} <= config.keys()
        assert ("num_labels" in config) is (preset == "tiny-aligner")
        weights = load_file(tmp_path / preset / "model.safetensors")
        original = load_file(tiny_asr / preset / "model.safetensors")
        assert torch.equal(weights[head], original["thinker.lm_head.weight"])
        assert len(weights) == len(original)
        assert not any("thinker" in name for name in weights)


def test_the_head_of_a_recogniser_is_its_embedding(tiny_asr: Path) -> None:
    weights = load_file(tiny_asr / "tiny-asr" / "model.safetensors")
    head, table = weights["thinker.lm_head.weight"], weights["thinker.model.embed_tokens.weight"]
    assert torch.equal(head, table)


def test_the_end_token_can_be_made_likely(tiny_asr: Path, tmp_path: Path) -> None:
    write_asr_checkpoint(tmp_path, eos_scale=4.0)
    name = "thinker.model.embed_tokens.weight"
    plain = load_file(tiny_asr / "tiny-asr" / "model.safetensors")[name]
    scaled = load_file(tmp_path / "model.safetensors")[name]
    end_id = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"][1]
    assert torch.equal(scaled[end_id], plain[end_id] * 4)
    assert (scaled != plain).any(1).nonzero().flatten().tolist() == [end_id]


@pytest.mark.parametrize(
    "vocabulary",
    [
        build_tiny_tts_vocabulary(),
        build_word_vocabulary((), REAL_TTS_ADDED, num_tokens=NUM_REAL_TOKENS),
        build_word_vocabulary((), REAL_ASR_ADDED),
    ],
    ids=["tiny speech", "real speech", "tiny recognition"],
)
def test_roles_are_one_token_and_any_text_can_be_spelt(vocabulary: Vocabulary) -> None:
    for role in ("assistant", "user"):
        assert len(tokenize(vocabulary, role)) == 1
    letters = {i: token for token, i in vocabulary.tokens.items()}
    ids = tokenize(vocabulary, "Grüße 你好 🎵")
    assert all(i in letters for i in ids)
    assert len(ids) >= 10


def test_real_vocabularies_have_the_published_ids() -> None:
    speech = build_word_vocabulary((), REAL_TTS_ADDED, num_tokens=NUM_REAL_TOKENS).added_ids
    listening = build_word_vocabulary((), REAL_ASR_ADDED, num_tokens=NUM_REAL_TOKENS).added_ids
    assert speech["<tts_pad>"] == 151_671
    assert speech["<tts_text_eod>"] == 151_673
    assert listening["<|audio_pad|>"] == 151_676
    assert listening["<timestamp>"] == 151_705


@pytest.mark.parametrize(
    ("preset", "kind", "num_millions"),
    [
        ("0.6b", "base", 914.6),
        ("0.6b", "custom_voice", 905.8),
        ("1.7b", "base", 1928.7),
        ("1.7b", "voice_design", 1916.7),
    ],
)
def test_speech_checkpoints_have_the_published_number_of_weights(
    preset: str, kind: str, num_millions: float
) -> None:
    config = build_tts_config(kind, preset, text_vocab_size=151_936, added_ids=REAL_ADDED_IDS)
    plan = TensorPlan()
    plan_talker(plan, config["talker_config"], eos_scale=1.0)
    if kind == "base":
        plan_speaker_encoder(plan, config["speaker_encoder_config"])
    assert count_millions(plan) == num_millions


def test_the_codec_has_the_published_number_of_weights() -> None:
    config = build_codec_config("0.6b")
    decoder, encoder = TensorPlan(), TensorPlan()
    plan_codec_decoder(decoder, config["decoder_config"])
    plan_codec_encoder(encoder, config["encoder_config"])
    assert count_millions(decoder) == 114.3
    assert count_millions(encoder) == 56.2


@pytest.mark.parametrize(
    ("preset", "num_tensors", "num_bytes"),
    [("asr-0.6b", 612, 1.876e9), ("asr-1.7b", 708, 4.698e9), ("aligner-0.6b", 708, 1.835e9)],
)
def test_recognisers_have_the_published_size(
    preset: str, num_tensors: int, num_bytes: float
) -> None:
    size = ASR_PRESETS[preset]
    assert size.vocab_size is not None
    plan = plan_asr(size, size.vocab_size, torch.zeros, qk_gain=1.0)
    assert len(plan.tensors) == num_tensors
    assert sum(2 * t.num_values for t in plan.tensors) == pytest.approx(num_bytes, rel=1e-3)


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint"):
        write_tts_checkpoint(tmp_path, preset="9b")
    with pytest.raises(ValueError, match="no such checkpoint"):
        write_asr_checkpoint(tmp_path, preset="9b")


def test_uneven_tensors_are_spread_over_all_shards(tmp_path: Path) -> None:
    plan = TensorPlan()
    for i, size in enumerate((100, 1, 1, 60, 60)):
        plan.normal(f"t{i}", size)
    write_tensors(tmp_path, plan, seed=0, dtype=torch.float16, num_shards=3)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [len(load_file(path)) for path in files] == [1, 3, 1]
