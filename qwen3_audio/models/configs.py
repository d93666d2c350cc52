"""config.json → dataclasses. A missing key that is needed is a StartError that names it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_audio.errors import StartError

Json = Mapping[str, Any]


def need(config: Json, key: str, where: str) -> Any:
    """The value of a key that no checkpoint may lack."""
    if key not in config:
        raise StartError(f"{where}{key} is missing, so this checkpoint can't be loaded")
    return config[key]


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Sizes of one Qwen3 decoder stack (talker, code predictor, ASR decoder, aligner)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    vocab_size: int
    max_positions: int

    @classmethod
    def from_json(cls, config: Json, where: str) -> "StackConfig":
        hidden_size = need(config, "hidden_size", where)
        num_heads = need(config, "num_attention_heads", where)
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        return cls(
            hidden_size=hidden_size,
            intermediate_size=need(config, "intermediate_size", where),
            num_layers=need(config, "num_hidden_layers", where),
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads", num_heads),
            head_dim=config.get("head_dim") or hidden_size // num_heads,
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 1e6),
            vocab_size=need(config, "vocab_size", where),
            max_positions=config.get("max_position_embeddings", 32768),
        )


@dataclass(frozen=True, slots=True)
class CodecIds:
    """Control ids of the talker's codec vocabulary."""

    bos: int
    eos: int
    pad: int
    think: int
    nothink: int
    think_bos: int
    think_eos: int


@dataclass(frozen=True, slots=True)
class TextIds:
    """Control ids of the text vocabulary that the talker's prompt uses."""

    pad: int
    bos: int
    eos: int


@dataclass(frozen=True, slots=True)
class TalkerConfig:
    """All of a Qwen3-TTS config.json that inference needs."""

    stack: StackConfig
    predictor: StackConfig
    text_vocab_size: int
    text_hidden_size: int
    num_code_groups: int
    codec: CodecIds
    text: TextIds
    languages: Mapping[str, int]  # lower-case name → codec id, dialects apart
    dialects: Mapping[str, int]
    speakers: Mapping[str, int]  # lower-case name → codec id
    speaker_dialects: Mapping[str, str]  # only speakers that have one
    kind: str
    size: str

    @property
    def codebook_size(self) -> int:
        """Codes of the first codebook; larger ids of the codec vocabulary are control ids."""
        return self.predictor.vocab_size

    @property
    def takes_instructions(self) -> bool:
        """The official wrapper drops instructions for the 0.6B CustomVoice model, so do we."""
        if self.kind == "voice_design":
            return True
        return self.kind == "custom_voice" and self.size != "0b6"

    @classmethod
    def from_json(cls, config: Json) -> "TalkerConfig":
        talker = need(config, "talker_config", "")
        where = "talker_config."
        predictor = need(talker, "code_predictor_config", where)
        ids = {key.lower(): value for key, value in talker.get("codec_language_id", {}).items()}
        dialects = {
            key.lower(): value for key, value in talker.get("spk_is_dialect", {}).items() if value
        }
        return cls(
            stack=StackConfig.from_json(talker, where),
            predictor=StackConfig.from_json(predictor, where + "code_predictor_config."),
            text_vocab_size=need(talker, "text_vocab_size", where),
            text_hidden_size=need(talker, "text_hidden_size", where),
            num_code_groups=need(talker, "num_code_groups", where),
            codec=_codec_ids(talker, where),
            text=TextIds(
                pad=need(config, "tts_pad_token_id", ""),
                bos=need(config, "tts_bos_token_id", ""),
                eos=need(config, "tts_eos_token_id", ""),
            ),
            languages={name: value for name, value in ids.items() if "dialect" not in name},
            dialects={name: value for name, value in ids.items() if "dialect" in name},
            speakers={
                name.lower(): value[0] if isinstance(value, list) else value
                for name, value in talker.get("spk_id", {}).items()
            },
            speaker_dialects=dialects,
            kind=need(config, "tts_model_type", ""),
            size=config.get("tts_model_size", ""),
        )


def _codec_ids(talker: Json, where: str) -> CodecIds:
    return CodecIds(
        bos=need(talker, "codec_bos_id", where),
        eos=need(talker, "codec_eos_token_id", where),
        pad=need(talker, "codec_pad_id", where),
        think=need(talker, "codec_think_id", where),
        nothink=need(talker, "codec_nothink_id", where),
        think_bos=need(talker, "codec_think_bos_id", where),
        think_eos=need(talker, "codec_think_eos_id", where),
    )
