"""Trained states → three checkpoint folders in the official layout, over one set of weights.

CustomVoice, Base and VoiceDesign differ in config.json; everything else is linked, not copied.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qwen3_audio.random_weights.tts import CODEC_PREPROCESSOR, CODEC_REMOTE
from qwen3_audio.scope import SCOPE_FILE
from training.run import load_state, say
from training.tts.codec import build_decoder, codec_config
from training.tts.encoder import build_encoder, encoder_config
from training.tts.lexicon import Lexicon
from training.tts.quantiser import NUM_GROUPS
from training.tts.speaker import SpeakerNet, speaker_config
from training.tts.talker import Talker, build_talker, talker_config, with_aliases
from training.tts.vocabulary import write_json, write_vocabulary

Json = dict[str, Any]

KINDS = {"custom_voice": "CustomVoice", "base": "Base", "voice_design": "VoiceDesign"}
FOLDERS = {kind: f"pocket-tts-{kind.replace('_', '-')}" for kind in KINDS}
MAX_BYTES = 14_000_000
_SCOPE: Json = {
    "about": "this pocket model speaks simple English: Latin letters, digits, punctuation",
    "max_chars": 72,  # it has learnt from sentences of at most 15 words
    "pause_s": 0.24,  # as long as a full stop within a text
    "in_context": False,  # the encoder has heard nothing but the voice itself
}
# A word is always the same codes, so there is nothing to vary: the published 0.9 only makes slips.
_TEMPERATURE = 0.3
_GENERATION: Json = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": _TEMPERATURE,
    "top_p": 1.0,
    "top_k": 50,
    "subtalker_dosample": True,
    "subtalker_temperature": _TEMPERATURE,
    "subtalker_top_p": 1.0,
    "subtalker_top_k": 50,
    "max_new_tokens": 8192,
}


class NotTrained(RuntimeError):
    """A stage that has to come first has left nothing."""


def load_average(work: Path, name: str, model: nn.Module) -> nn.Module:
    """The averaged weights of a trained network, in `model`."""
    state = load_state(work / f"{name}.pt")
    if state is None:
        raise NotTrained(f"{work / name}.pt is missing: run the stage {name} first")
    model.load_state_dict(state["average"])
    return model.eval()


def load_talker(work: Path, lexicon: Lexicon) -> Talker:
    talker = load_average(work, "talker", build_talker(lexicon.vocabulary.size))
    assert isinstance(talker, Talker)
    return talker


def assemble(work: Path, out: Path) -> dict[str, Path]:
    """Write the three folders; returns them by kind. Parts that are untrained yet stay random."""
    lexicon = Lexicon.load(work / "lexicon")
    shared = out / FOLDERS["custom_voice"]
    for name in FOLDERS.values():
        shutil.rmtree(out / name, ignore_errors=True)
    (shared / "speech_tokenizer").mkdir(parents=True)
    write_vocabulary(shared, lexicon.vocabulary)
    write_json(shared / "generation_config.json", _GENERATION)
    write_json(shared / SCOPE_FILE, _SCOPE)
    _write_speech(work, lexicon, shared)
    _write_codec(work, lexicon, shared / "speech_tokenizer")
    folders = {kind: out / name for kind, name in FOLDERS.items()}
    for folder in folders.values():
        if folder != shared:
            shutil.copytree(shared, folder, copy_function=os.link)
    for kind, folder in folders.items():
        write_json(folder / "config.json", checkpoint_config(lexicon, kind))
    size = packed_size(out)
    say(f"{out}: {size / 1e6:.2f} MB, every file once")
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes are more than the {MAX_BYTES} that may be shipped")
    return folders


def packed_size(folder: Path) -> int:
    """Bytes of all files below a folder, links counted once."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({stat.st_ino: stat.st_size for stat in stats}.values())


def _write_speech(work: Path, lexicon: Lexicon, folder: Path) -> None:
    talker = with_aliases(load_talker(work, lexicon), lexicon.vocabulary.aliases())
    speaker = SpeakerNet(speaker_config(talker.config["hidden_size"]))
    if (work / "speaker.pt").exists():
        load_average(work, "speaker", speaker)
    tensors = {f"talker.{name}": value for name, value in talker.state_dict().items()}
    tensors |= dict(speaker.weights())
    _save(folder / "model.safetensors", tensors, torch.bfloat16)


def _write_codec(work: Path, lexicon: Lexicon, folder: Path) -> None:
    decoder, encoder = build_decoder(lexicon), build_encoder(lexicon)
    load_average(work, "codec", decoder)
    if (work / "encoder.pt").exists():
        load_average(work, "encoder", encoder)
    tensors = {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    tensors |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    _save(folder / "model.safetensors", tensors, torch.float16)
    write_json(
        folder / "config.json",
        {
            "architectures": ["Qwen3TTSTokenizerV2Model"],
            "model_type": "qwen3_tts_tokenizer_12hz",
            "encoder_valid_num_quantizers": NUM_GROUPS,
            "input_sample_rate": 24000,
            "output_sample_rate": 24000,
            "decode_upsample_rate": 1920,
            "encode_downsample_rate": 1920,
            "decoder_config": codec_config(),
            "encoder_config": encoder_config(),
        },
    )
    write_json(folder / "configuration.json", CODEC_REMOTE)
    write_json(folder / "preprocessor_config.json", CODEC_PREPROCESSOR)


def _save(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    stored = {name: value.detach().to(dtype).cpu().contiguous() for name, value in tensors.items()}
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(0o644)


def checkpoint_config(lexicon: Lexicon, kind: str) -> Json:
    """config.json of one kind; only CustomVoice has names, only Base hears references."""
    ids = lexicon.vocabulary.added_ids
    talker = talker_config(lexicon.vocabulary.size)
    config: Json = {
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        "model_type": "qwen3_tts",
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "tts_model_size": "0b6",
        "tts_model_type": kind,
        "im_start_token_id": ids["<|im_start|>"],
        "im_end_token_id": ids["<|im_end|>"],
        "tts_pad_token_id": ids["<tts_pad>"],
        "tts_bos_token_id": ids["<tts_text_bos>"],
        "tts_eos_token_id": ids["<tts_text_eod>"],
        "talker_config": talker,
    }
    if kind != "custom_voice":
        talker |= {"spk_id": {}, "spk_is_dialect": {}}
    if kind == "base":
        config["speaker_encoder_config"] = speaker_config(talker["hidden_size"])
    return config
