"""Recognition and alignment end to end, in float32, against the official package's tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asr_clips import read_clip
from torch import Tensor
from torch.nn import functional

from qwen3_audio.engine.asr_prompt import build_prompt
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.engine.weights import GenerationDefaults, Weights, read_json
from qwen3_audio.models.aligner import AlignerHead, lay_out, split_words
from qwen3_audio.models.asr import AsrConfig, AudioEncoder, original_name
from qwen3_audio.models.mel import log_mel_16k
from qwen3_audio.models.qwen3 import Stack
from qwen3_audio.random_weights.asr import write_asr_checkpoint

GOLDEN = np.load(Path(__file__).parent / "golden_asr.npz")
CASES: dict[str, Any] = json.loads(str(GOLDEN["cases"]))


def attend_to_the_past(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The plainest attention: the whole sequence at once, no cache."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    out = functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)), is_causal=True
    )
    return out[0].transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Model:
    """A checkpoint without an engine."""

    tokenizer: TextTokenizer
    encoder: AudioEncoder
    stack: Stack
    embedding: Tensor
    weights: Weights
    end_ids: tuple[int, ...]

    @classmethod
    def load(cls, folder: Path) -> "Model":
        config = AsrConfig.from_json(read_json(folder / "config.json"))
        weights = Weights(
            folder, dtype=torch.float32, device=torch.device("cpu"), name_of=original_name
        )
        return cls(
            tokenizer=TextTokenizer(folder),
            encoder=AudioEncoder(config.audio, weights),
            stack=Stack(config.stack, weights, "thinker.model.", torch.float32),
            embedding=weights["thinker.model.embed_tokens.weight"],
            weights=weights,
            end_ids=GenerationDefaults.read(folder).eos_ids,
        )

    def embed_audio(self, clip: str) -> Tensor:
        return self.encoder.encode([log_mel_16k(torch.from_numpy(read_clip(clip)))])[0]

    def run(self, ids: list[int], audio_start: int, audio: Tensor) -> Tensor:
        x = self.embedding[torch.tensor(ids)]
        x[audio_start : audio_start + len(audio)] = audio
        return self.stack(x, self.stack.rope(torch.arange(len(ids))), attend_to_the_past)

    def transcribe(self, case: dict[str, Any], num_tokens: int) -> list[int]:
        audio = self.embed_audio(case["clip"])
        prompt = build_prompt(
            self.tokenizer, len(audio), context=case["context"], language=case["language"]
        )
        ids = list(prompt.ids)
        for _ in range(num_tokens):
            hidden = self.run(ids, prompt.audio_start, audio)[-1]
            ids.append(int((self.embedding @ hidden).argmax()))
        return ids[len(prompt.ids) :]


@pytest.fixture(scope="module")
def model(tiny_asr: Path) -> Model:
    return Model.load(tiny_asr / "tiny-asr")


@pytest.mark.parametrize("name", CASES["tokens"])
def test_greedy_tokens_equal_the_official_ones(model: Model, name: str) -> None:
    case = CASES["tokens"][name]
    expected = GOLDEN[f"tokens/{case['number']}"].tolist()
    assert model.transcribe(case, len(expected)) == expected


@pytest.mark.parametrize("num_shards", [1, 3])
def test_the_hf_layout_gives_the_same_tokens(tmp_path: Path, num_shards: int) -> None:
    write_asr_checkpoint(tmp_path, preset="tiny-asr", layout="hf", num_shards=num_shards)
    case = CASES["tokens"]["forced English"]
    expected = GOLDEN[f"tokens/{case['number']}"].tolist()
    assert Model.load(tmp_path).transcribe(case, len(expected)) == expected


@pytest.mark.parametrize("layout", ["original", "hf"])
@pytest.mark.parametrize("name", CASES["aligned"])
def test_aligner_classes_equal_the_official_ones(tmp_path: Path, name: str, layout: str) -> None:
    write_asr_checkpoint(tmp_path, preset="tiny-aligner", layout=layout)
    model = Model.load(tmp_path)
    case = CASES["aligned"][name]
    audio = model.embed_audio(case["clip"])
    layout_ = lay_out(
        split_words(case["text"], case["language"]),
        len(audio),
        encode=model.tokenizer.encode,
        special=model.tokenizer.special,
    )
    hidden = model.run(list(layout_.ids), layout_.audio_start, audio)[list(layout_.stamps)]
    classes = AlignerHead(model.weights)(hidden)
    assert classes.tolist() == GOLDEN[f"aligned/{name}/classes"].tolist()
