"""Records what the official package does with the tiny checkpoints, into golden_asr.npz.

Run by hand, in an environment of its own (Python 3.11):

    python3.11 -m venv official-asr && official-asr/bin/pip install qwen-asr==0.0.6
    HF_HUB_OFFLINE=1 PYTHONPATH=. official-asr/bin/python tests/parity/record_asr.py

The package runs as it is, but for two things, both of which its published results rest on: its
encoder gets the windows that only FlashAttention 2 gives it, and the tokenizer its own pattern
back, which the package replaces for local folders.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from asr_clips import DATA, RATE_HZ, read_clip
from qwen_asr import Qwen3ASRModel
from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForceAlignProcessor
from qwen_asr.inference.utils import parse_asr_output
from safetensors.torch import load_file
from tokenizers import Regex, pre_tokenizers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qwen3_audio.random_weights.asr import write_asr_checkpoint

OUT = Path(__file__).parent / "golden_asr.npz"
NUM_TOKENS = 24
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TERMS = "PostgreSQL Redis CUDA, Kokoro\n  Whisper 3.5 的"

TOKEN_CASES = {
    "half a second": {"clip": "made:8000:1"},
    "three quarters of a second": {"clip": "made:12000:2"},
    "a tenth of a second": {"clip": "made:1600:3"},
    "one second": {"clip": "made:16000:4"},
    "1.3 seconds": {"clip": "made:20800:5"},
    "short and no multiple of the hop": {"clip": "made:13370:6"},
    "five seconds": {"clip": "made:80000:7"},
    "no multiple of the hop": {"clip": "made:80079:8"},
    "eight seconds, one window": {"clip": "made:128000:9"},
    "a little more than one window": {"clip": "made:129600:10"},
    "eleven seconds": {"clip": "made:176000:11"},
    "seventeen seconds": {"clip": "made:272000:12"},
    "thirty seconds": {"clip": "made:480000:13"},
    "speech of 5 s": {"clip": "5s_dont_worry_about_him.wav"},
    "speech of 11 s": {"clip": "jfk.wav"},
    "forced English": {"clip": "jfk.wav", "language": "English"},
    "forced Chinese, short": {"clip": "made:12000:14", "language": "Chinese"},
    "forced Cantonese": {"clip": "made:80000:15", "language": "Cantonese"},
    "context": {"clip": "jfk.wav", "context": TERMS},
    "context and forced German": {"clip": "made:80000:16", "context": TERMS, "language": "German"},
    "long context": {"clip": "made:48000:17", "context": ", ".join([TERMS, "Zürich"] * 12)},
}
EMBEDDING_CLIPS = ("made:12000:2", "made:36800:18", "made:176000:11")
MEL_CLIPS = ("made:20800:5", "made:13370:6")
ALIGN_CASES = {
    "English": ("jfk.wav", "English", (DATA / "jfk.txt").read_text("utf-8").strip()),
    "numbers": ("made:80000:7", "English", "It's 3.5, isn't it? (Well-known: 12-34.)"),
    "Chinese": ("made:80000:8", "Chinese", "今天天气很好，我们用GPU训练3.5个model。"),
    "German": ("made:129600:10", "German", "Grüß Gott! Wie geht’s — heute früh?"),
}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for preset in ("tiny-asr", "tiny-aligner"):
            write_asr_checkpoint(folder / preset, preset=preset)
        arrays = record_fingerprints(folder)
        model = load_official(folder)
    cases = {
        "tokens": record_tokens(model, arrays),
        "embeddings": record_embeddings(model, arrays),
        "mels": record_mels(model, arrays),
        "aligned": record_aligned(model, arrays),
        "parsed": record_parsed(),
        "repaired": record_repaired(),
    }
    np.savez_compressed(OUT, cases=json.dumps(cases, ensure_ascii=False), **arrays)
    print(OUT, OUT.stat().st_size, "bytes")


def record_fingerprints(folder: Path) -> dict[str, np.ndarray]:
    """The first numbers of every tensor: they tell whether a test has the same checkpoint."""
    return {
        f"weights/{preset}": np.concatenate(
            [
                tensor.flatten()[:4].numpy()
                for _, tensor in sorted(load_file(folder / preset / "model.safetensors").items())
            ]
        )
        for preset in ("tiny-asr", "tiny-aligner")
    }


def load_official(folder: Path) -> Qwen3ASRModel:
    ALL_ATTENTION_FUNCTIONS.register("windowed", attend_in_windows)
    settings = {"dtype": torch.float32, "device_map": "cpu"}
    model = Qwen3ASRModel.from_pretrained(
        str(folder / "tiny-asr"),
        max_new_tokens=NUM_TOKENS,
        forced_aligner=str(folder / "tiny-aligner"),
        forced_aligner_kwargs=settings,
        **settings,
    )
    for part in (model, model.forced_aligner):
        part.model.thinker.audio_tower.config._attn_implementation = "windowed"
        pattern = pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated")
        part.processor.tokenizer.backend_tokenizer.pre_tokenizer[0] = pattern
    return model


def attend_in_windows(module, q, k, v, attention_mask, cu_seq_lens_q, scaling, **_):
    """Dense attention with the mask that FlashAttention's cu_seqlens stand for."""
    window = torch.bucketize(torch.arange(q.shape[2]), cu_seq_lens_q[1:], right=True)
    mask = window[:, None] == window
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def record_tokens(model: Qwen3ASRModel, arrays: dict[str, np.ndarray]) -> dict[str, dict]:
    generate, seen = model.model.generate, {}

    def listen(**inputs):
        result = generate(**inputs, output_logits=True)
        prompt = inputs["input_ids"]
        top = torch.cat(result.logits).topk(2).values
        seen["prompt"] = prompt[0].numpy()
        seen["tokens"] = result.sequences[0, prompt.shape[1] :].numpy()
        seen["margin"] = float((top[:, 0] - top[:, 1]).min())
        return result

    model.model.generate = listen
    cases = {}
    for number, (name, case) in enumerate(TOKEN_CASES.items()):
        asked = {key: case[key] for key in ("language", "context") if key in case}
        [answer] = model.transcribe(audio=(read_clip(case["clip"]), RATE_HZ), **asked)
        arrays[f"tokens/{number}"] = seen["tokens"].astype(np.int32)
        arrays[f"prompt/{number}"] = seen["prompt"].astype(np.int32)
        cases[name] = {"number": number, "language": None, "context": "", **case}
        cases[name] |= {"heard": [answer.language, answer.text], "margin": seen["margin"]}
        print(f"{name}: {len(seen['prompt'])} ids, margin {seen['margin']:.4f}", file=sys.stderr)
    model.model.generate = generate
    return cases


def record_embeddings(model: Qwen3ASRModel, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    tower = model.model.thinker.audio_tower
    for clip in EMBEDDING_CLIPS:
        mel = extract_mel(model, clip)
        with torch.inference_mode():
            out = tower(mel, feature_lens=torch.tensor([mel.shape[1]])).last_hidden_state
        arrays[f"embeddings/{clip}"] = out.numpy()
    return {clip: f"embeddings/{clip}" for clip in EMBEDDING_CLIPS}


def record_mels(model: Qwen3ASRModel, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    for clip in MEL_CLIPS:
        arrays[f"mels/{clip}"] = extract_mel(model, clip).numpy()
    return {clip: f"mels/{clip}" for clip in MEL_CLIPS}


def extract_mel(model: Qwen3ASRModel, clip: str) -> torch.Tensor:
    inputs = model.processor(text=["<|audio_pad|>"], audio=[read_clip(clip)], return_tensors="pt")
    return inputs["input_features"][0]


def record_aligned(model: Qwen3ASRModel, arrays: dict[str, np.ndarray]) -> dict[str, dict]:
    aligner = model.forced_aligner
    forward, seen = aligner.model.thinker.forward, {}

    def listen(**inputs):
        result = forward(**inputs)
        ids = inputs["input_ids"]
        seen["ids"] = ids[0].numpy()
        classes = result.logits.argmax(-1)[ids == aligner.timestamp_token_id]
        seen["classes"] = classes.numpy()
        return result

    aligner.model.thinker.forward = listen
    cases = {}
    for name, (clip, language, text) in ALIGN_CASES.items():
        [result] = aligner.align((read_clip(clip), RATE_HZ), text, language)
        arrays[f"aligned/{name}/ids"] = seen["ids"].astype(np.int32)
        arrays[f"aligned/{name}/classes"] = seen["classes"].astype(np.int32)
        words = [[item.text, item.start_time, item.end_time] for item in result]
        cases[name] = {"clip": clip, "language": language, "text": text, "words": words}
    return cases


def record_parsed() -> list[dict]:
    """Answers of every shape, among them loops just below and above the limit."""
    draw = random.Random(0)
    loops = ["".join(draw.choices("ab c", k=draw.randint(1, 22))) for _ in range(60)]
    answers = [
        draw.choice(["", "x", "ab "]) + loop * draw.choice([2, 19, 20, 21, 45]) + tail
        for loop, tail in zip(
            loops, draw.choices(["", "!", " end", "a" * 20, "b" * 25], k=60), strict=True
        )
    ]
    answers += ["", "  ", "language English<asr_text>", "language None<asr_text>", "no tag at all "]
    answers += [
        "language None<asr_text> yet text ",
        "language cHINese<asr_text>你好 ",
        "x<asr_text>y",
    ]
    answers += ["language English\nmore\n<asr_text> a <asr_text> b", "language <asr_text>z"]
    answers += ["x\n Language klingon \nlanguage English<asr_text>z", "<asr_text>", "language"]
    answers += [f"language English<asr_text>{answer}" for answer in answers[:30]]
    return [
        {"raw": raw, "forced": forced, "heard": parse_asr_output(raw, user_language=forced)}
        for raw in answers
        for forced in (None, "German")
    ]


def record_repaired() -> list[list[list[int]]]:
    """Time stamps before and after, with many ties and long disorders."""
    draw, repair = random.Random(1), Qwen3ForceAlignProcessor().fix_timestamp
    cases = []
    for _ in range(60):
        length, spread = draw.randint(1, 30), draw.choice([1, 5, 60])
        stamps = [80 * max(0, at + draw.randint(-spread, spread)) for at in range(length)]
        cases.append([stamps, repair(np.array(stamps))])
    return cases


if __name__ == "__main__":
    main()
