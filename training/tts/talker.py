"""Talker and code predictor with the official tensor names, and their losses on whole examples.

Letters in shapes: B examples, T rows, G code groups, D talker width, P predictor width, N frames.
"""

import copy
import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.tts.quantiser import NUM_CODES, NUM_GROUPS
from training.tts.stack import Stack
from training.tts.trainer import Losses

Json = dict[str, Any]

NONE = -1  # no code in this row
IGNORED = -100  # no label in this row
_SHIFT = 2048 - NUM_CODES  # control ids keep their distance from the codes
CODEC_IDS = {
    "codec_bos_id": 2149 - _SHIFT,
    "codec_eos_token_id": 2150 - _SHIFT,
    "codec_pad_id": 2148 - _SHIFT,
    "codec_think_id": 2154 - _SHIFT,
    "codec_nothink_id": 2155 - _SHIFT,
    "codec_think_bos_id": 2156 - _SHIFT,
    "codec_think_eos_id": 2157 - _SHIFT,
}
LANGUAGE_IDS = {"english": 2050 - _SHIFT}
_OFFICIAL_SPEAKER_IDS = {
    **{"serena": 3066, "vivian": 3065, "uncle_fu": 3010, "ryan": 3061, "aiden": 2861},
    **{"ono_anna": 2873, "sohee": 2864, "eric": 2875, "dylan": 2878},
}
SPEAKER_IDS = {name: id_ - _SHIFT for name, id_ in _OFFICIAL_SPEAKER_IDS.items()}

_QWEN3: Json = {
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "sliding_window": None,
    "use_sliding_window": False,
    "use_cache": True,
    "initializer_range": 0.02,
    "head_dim": 32,
}


def talker_config(text_vocab_size: int) -> Json:
    """`talker_config` of config.json. `vocab_size` has to be the codebook's size + 1024: the
    official code suppresses the last 1024 ids but the end."""
    return {
        **_QWEN3,
        "model_type": "qwen3_tts_talker",
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 32768,
        "rope_theta": 10000,
        "rope_scaling": {
            "interleaved": True,
            "mrope_section": [6, 5, 5],
            "rope_type": "default",
            "type": "default",
        },
        "vocab_size": NUM_CODES + 1024,
        "text_vocab_size": text_vocab_size,
        "text_hidden_size": 64,
        "num_code_groups": NUM_GROUPS,
        "position_id_per_seconds": 13,
        **CODEC_IDS,
        "codec_language_id": LANGUAGE_IDS,
        "spk_id": SPEAKER_IDS,
        "spk_is_dialect": dict.fromkeys(SPEAKER_IDS, False),
        "code_predictor_config": {
            **_QWEN3,
            "model_type": "qwen3_tts_talker_code_predictor",
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 65536,
            "max_window_layers": 28,
            "layer_types": ["full_attention"] * 2,
            "rope_theta": 1000000,
            "vocab_size": NUM_CODES,
            "num_code_groups": NUM_GROUPS,
        },
    }


@dataclass(frozen=True)
class Examples:
    """A padded batch, int64: what every row is made of and which first code follows it."""

    text_ids: Tensor  # [B, T]
    codec_ids: Tensor  # [B, T], NONE where there is none or a frame stands
    frames: Tensor  # [B, T, G], NONE where there is none
    labels: Tensor  # [B, T], IGNORED where nothing is to be said
    is_speaker: Tensor  # bool [B, T]

    def to(self, device: torch.device) -> "Examples":
        return Examples(*(getattr(self, field.name).to(device) for field in fields(self)))


class _TalkerModel(Stack):
    def __init__(self, config: Json) -> None:
        super().__init__(config)
        self.codec_embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.text_embedding = nn.Embedding(config["text_vocab_size"], config["text_hidden_size"])


class _PredictorModel(Stack):
    def __init__(self, config: Json, talker_size: int) -> None:
        super().__init__(config)
        self.codec_embedding = nn.ModuleList(
            nn.Embedding(config["vocab_size"], talker_size)
            for _ in range(config["num_code_groups"] - 1)
        )


class _Predictor(nn.Module):
    def __init__(self, config: Json, talker_size: int) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.model = _PredictorModel(config, talker_size)
        self.lm_head = nn.ModuleList(
            nn.Linear(size, config["vocab_size"], bias=False)
            for _ in range(config["num_code_groups"] - 1)
        )
        self.small_to_mtp_projection = nn.Linear(talker_size, size)

    def embed(self, frames: Tensor) -> Tensor:
        """Sum of the embeddings of codes 1 … G-1: [..., G] → [..., D]."""
        tables = self.model.codec_embedding
        rows = [table(frames[..., g + 1]) for g, table in enumerate(tables)]
        return torch.stack(rows).sum(0)

    def forward(self, hidden: Tensor, first: Tensor, codes: Tensor) -> Tensor:
        """hidden [N, D], embedded first codes [N, D], codes [N, G] → logits [N, G - 1, K]."""
        tables = self.model.codec_embedding
        later = [table(codes[:, g + 1]) for g, table in enumerate(tables[:-1])]
        rows = torch.stack([hidden, first, *(row.to(hidden.dtype) for row in later)], 1)
        states = self.model(self.small_to_mtp_projection(rows))[:, 1:]
        return torch.stack([head(states[:, g]) for g, head in enumerate(self.lm_head)], 1)


class _TextProjection(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        size = config["text_hidden_size"]
        self.linear_fc1 = nn.Linear(size, size)
        self.linear_fc2 = nn.Linear(size, config["hidden_size"])

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.linear_fc2(functional.silu(self.linear_fc1(x)))
        return projected


class Talker(nn.Module):
    """Names of tensors are the official ones without `talker.`."""

    def __init__(self, config: Json) -> None:
        super().__init__()
        self.config = config
        self.model = _TalkerModel(config)
        self.text_projection = _TextProjection(config)
        self.codec_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        self.code_predictor = _Predictor(config["code_predictor_config"], config["hidden_size"])

    def embed(self, batch: Examples, frames: Tensor, speaker_noise: Tensor | None = None) -> Tensor:
        """The rows of a batch [B, T, D], with `frames` in place of the batch's own."""
        is_frame = frames[..., 0] >= 0
        ids = torch.where(is_frame, frames[..., 0], batch.codec_ids)
        x = self.text_projection(self.model.text_embedding(batch.text_ids))
        codec = self.model.codec_embedding(ids.clamp(min=0))
        if speaker_noise is not None:
            codec = codec + speaker_noise * batch.is_speaker[..., None]
        x = x + codec * (ids >= 0)[..., None]
        others = self.code_predictor.embed(frames.clamp(min=0))
        out: Tensor = x + others * is_frame[..., None]
        return out


def initialise(talker: Talker) -> None:
    """Unit gain; by the official start text is thirty times weaker than the codec's rows."""
    config = talker.config
    depth = {
        False: config["num_hidden_layers"],
        True: config["code_predictor_config"]["num_hidden_layers"],
    }
    for name, parameter in talker.named_parameters():
        if parameter.dim() < 2:
            continue
        is_predictor = "code_predictor" in name
        if "text_embedding" in name:
            deviation = 1.0
        elif "embedding" in name:
            deviation = 0.25 if is_predictor else 0.5
        else:
            deviation = 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                deviation /= math.sqrt(2 * depth[is_predictor])
            if "head" in name:
                deviation *= 0.3
            if "linear_fc" in name:
                deviation *= 1.4
        nn.init.normal_(parameter, 0, deviation)


def corrupt(frames: Tensor, share: float) -> Tensor:
    """Replace whole frames of the past by random codes: a talker has to live with its slips."""
    device = frames.device
    is_bad = (torch.rand(frames.shape[:2], device=device) < share) & (frames[..., 0] >= 0)
    others = torch.randint(NUM_CODES, frames.shape, device=device)
    return torch.where(is_bad[..., None], others, frames)


def losses_of(
    talker: Talker,
    batch: Examples,
    *,
    corrupted: float = 0.0,
    frame_share: float = 1.0,
    noise: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Losses:
    """Cross-entropies of the first code and of the others, with their accuracies.

    The predictor is trained on a random `frame_share` of the frames. Row j predicts row j + 1's
    frame: the losses inside the official classes shift once more than that.
    """
    frames = corrupt(batch.frames, corrupted) if corrupted else batch.frames
    speaker_noise = None
    if noise:
        shape = (*batch.text_ids.shape, talker.config["hidden_size"])
        speaker_noise = torch.randn(shape, device=frames.device) * noise
        speaker_noise *= torch.rand(len(frames), 1, 1, device=frames.device)
    x = talker.embed(batch, frames, speaker_noise)
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        hidden = talker.model(x.to(dtype))
        is_labelled = batch.labels >= 0
        states, labels = hidden[is_labelled], batch.labels[is_labelled]
        logits = talker.codec_head(states).float()
        is_code = labels < NUM_CODES
        following = batch.frames.roll(-1, 1)[is_labelled][is_code]
        states = states[is_code]
        if frame_share < 1:
            chosen = torch.rand(len(following), device=frames.device) < frame_share
            states, following = states[chosen], following[chosen]
        first = talker.model.codec_embedding(following[:, 0]).to(states.dtype)
        others = talker.code_predictor(states, first, following).float()
    first_loss = functional.cross_entropy(logits, labels)
    other_loss = functional.cross_entropy(others.flatten(0, 1), following[:, 1:].flatten())
    return {
        "loss": first_loss + other_loss,
        "first": first_loss,
        "others": other_loss,
        "first_wrong": (logits.argmax(-1) != labels).float().mean(),
        "others_wrong": (others.argmax(-1) != following[:, 1:]).float().mean(),
    }


def build_talker(text_vocab_size: int) -> Talker:
    torch.manual_seed(0)
    talker = Talker(talker_config(text_vocab_size))
    initialise(talker)
    return talker


def with_aliases(talker: Talker, aliases: list[int]) -> Talker:
    """A copy in which rows of the text table that are never trained equal those they stand for."""
    talker = copy.deepcopy(talker)
    table = talker.model.text_embedding.weight.data
    table.copy_(table[torch.tensor(aliases)].clone())
    return talker
