"""Records what the official package does with the tiny checkpoints, into golden_tts.npz.

Run by hand, in an environment of its own (Python 3.11), from the root of the repository:

    python3.11 -m venv official-tts
    official-tts/bin/pip install torch transformers==4.57.3 accelerate==1.12.0 librosa soundfile \
        sox onnxruntime einops
    official-tts/bin/pip install --no-deps qwen-tts==0.1.1
    HF_HUB_OFFLINE=1 PYTHONPATH=. official-tts/bin/python tests/parity/record_tts.py

The package runs as it is. Only torchaudio, which it imports for another codec, is replaced by
an empty module: the published wheel needs CUDA's libraries.

What the file holds: `cases` is a JSON list. A case names its `checkpoint` and `width` (the preset
of qwen3_audio.random_weights), the `request`, the key of its `codes` (int16 [frames, groups]) and
perhaps that of its `audio` (float32 [samples]; after the reference's own frames). `layout` is
"whole" (all text stands in the prompt) or "streamed" (one token of text a frame). Greedy, at most
`MAX_FRAMES` frames. A request's `reference` is the number of samples of `make_reference`.
"""

import json
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tts_sounds import LONG_REFERENCE, RATE_HZ, SHORT_REFERENCE, make_reference

from qwen3_audio.random_weights.tts import write_tts_checkpoint

GOLDEN = Path(__file__).with_name("golden_tts.npz")
WIDTHS = ("tiny", "tiny-same-width")
CHECKPOINTS = {"tiny-Base": "base", "tiny-CustomVoice": "custom_voice"}
CHECKPOINTS["tiny-VoiceDesign"] = "voice_design"  # the order gives the seeds 0, 1, 2
LAYOUTS = {"whole": True, "streamed": False}
MAX_FRAMES = 40
GREEDY = {"do_sample": False, "subtalker_dosample": False}

HELLO = "Hello there, this is the server."
LONG = (
    f"{HELLO} And one more sentence, longer than the codes of the reference, so that text trails."
)
CUSTOM_VOICE = {
    "auto": {"text": HELLO, "speaker": "vivian"},
    "short": {"text": "Hi.", "speaker": "aiden", "language": "German"},
    "instructions": {
        "text": HELLO,
        "speaker": "ryan",
        "language": "English",
        "instructions": "Speak slowly.",
    },
    "dialect-auto": {"text": HELLO, "speaker": "eric"},
    "dialect-chinese": {"text": "你好，世界。", "speaker": "dylan", "language": "Chinese"},
    "dialect-other": {"text": HELLO, "speaker": "eric", "language": "English"},
    "chinese": {"text": "你好，世界。", "speaker": "serena", "language": "Chinese"},
}
VOICE_DESIGN = {
    "instructions": {
        "text": HELLO,
        "language": "English",
        "instructions": "A calm low voice.",
    },
    "plain": {"text": HELLO},
}
SHORT = {"reference": SHORT_REFERENCE, "reference_text": "The reference words."}
BASE = {
    "vector-auto": {"text": HELLO, "reference": SHORT_REFERENCE},
    "vector-named": {"text": HELLO, "language": "Korean", "reference": SHORT_REFERENCE},
    "context": {"text": HELLO, "language": "English", **SHORT},
    "context-auto": {"text": "Short one.", **SHORT},
    "context-long-text": {"text": LONG, "language": "English", **SHORT},
    "context-short-text": {
        "text": "Hi.",
        "language": "French",
        "reference": SHORT_REFERENCE,
        "reference_text": "Ab.",
    },
    "context-long-reference": {
        "text": HELLO,
        "language": "English",
        "reference": LONG_REFERENCE,
        "reference_text": "The reference words, rather more of them.",
    },
}
REQUESTS = {"tiny-CustomVoice": CUSTOM_VOICE, "tiny-VoiceDesign": VOICE_DESIGN, "tiny-Base": BASE}
NUM_SOUNDS = 4  # cases whose sound is kept, the shortest of the first width


def replace_torchaudio() -> None:
    for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
        module: Any = ModuleType(name)
        module.__path__, module.__version__ = [], "0"
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def record() -> None:
    replace_torchaudio()
    from qwen_tts import Qwen3TTSModel

    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    cases: list[dict[str, Any]] = []
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as root:
            for seed, (name, kind) in enumerate(CHECKPOINTS.items()):
                folder = Path(root, name)
                write_tts_checkpoint(folder, kind, preset=width, seed=seed)
                model = Qwen3TTSModel.from_pretrained(
                    str(folder), device_map="cpu", dtype=torch.float32
                )
                arrays[f"probe/{width}/{name}"] = probe(model)
                cases += record_cases(model, name, width, arrays)
                if kind == "base":
                    record_references(model, width, arrays)
                if kind == "base" and width == WIDTHS[0]:
                    record_codec(model, arrays)
    keep_short_sounds(cases, arrays)
    arrays["cases"] = np.array(json.dumps(cases, ensure_ascii=False))
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN.name}: {len(cases)} cases, {GOLDEN.stat().st_size / 1e6:.2f} MB")


def probe(model: Any) -> np.ndarray[Any, Any]:
    """A few weights, so that a test can tell other weights from another result."""
    table = model.model.talker.model.codec_embedding.weight[2000, :8]
    conv = model.model.speech_tokenizer.model.decoder.pre_conv.conv.weight[0, :8, 0]
    return torch.cat([table, conv]).detach().numpy()


def record_cases(
    model: Any, checkpoint: str, width: str, arrays: dict[str, np.ndarray[Any, Any]]
) -> list[dict[str, Any]]:
    cases = []
    for name, request in REQUESTS[checkpoint].items():
        for layout, is_whole in LAYOUTS.items():
            key = f"{width}/{checkpoint}/{name}/{layout}"
            codes, samples = speak(model, checkpoint, request, is_whole)
            arrays[f"{key}/codes"] = codes.astype(np.int16)
            arrays[f"{key}/audio"] = samples
            case = {"name": key, "checkpoint": checkpoint, "width": width, "layout": layout}
            cases.append(case | {"request": request, "codes": f"{key}/codes", "audio": None})
            print(
                f"{key}: {len(codes)} frames, {len(samples)} samples, {np.abs(samples).max():.2f}"
            )
    return cases


def speak(model: Any, checkpoint: str, request: dict[str, Any], is_whole: bool) -> tuple[Any, Any]:
    """Codes [frames, groups] and samples of one request."""
    options = GREEDY | {"non_streaming_mode": is_whole, "language": request.get("language", "Auto")}
    options["max_new_tokens"] = MAX_FRAMES + 1  # the last token never becomes a frame there
    generate, heard = model.model.generate, []

    def listen(*args: Any, **kwargs: Any) -> Any:
        result = generate(*args, **kwargs)
        heard.extend(result[0])
        return result

    model.model.generate = listen
    try:
        samples = call(model, checkpoint, request, options)
    finally:
        model.model.generate = generate
    return heard[0].cpu().numpy(), samples


def call(model: Any, checkpoint: str, request: dict[str, Any], options: dict[str, Any]) -> Any:
    text = request["text"]
    if checkpoint == "tiny-CustomVoice":
        options |= {"speaker": request["speaker"], "instruct": request.get("instructions")}
        return model.generate_custom_voice(text, **options)[0][0]
    if checkpoint == "tiny-VoiceDesign":
        instruct = request.get("instructions", "")
        return model.generate_voice_design(text, instruct=instruct, **options)[0][0]
    prompt = clone_prompt(model, request["reference"], request.get("reference_text"))
    samples = model.generate_voice_clone(text, voice_clone_prompt=prompt, **options)[0][0]
    return samples[len(samples) % 1920 :]  # its cut is sometimes a sample early


def clone_prompt(model: Any, num_samples: int, text: str | None) -> Any:
    sound = (make_reference(num_samples), RATE_HZ)
    return model.create_voice_clone_prompt(sound, ref_text=text, x_vector_only_mode=text is None)


def record_references(model: Any, width: str, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    for num_samples in (SHORT_REFERENCE, LONG_REFERENCE):
        (item,) = clone_prompt(model, num_samples, "words")
        key = f"reference/{num_samples}/{width}"
        arrays[f"{key}/codes"] = item.ref_code.numpy().astype(np.int16)
        arrays[f"{key}/vector"] = item.ref_spk_embedding.numpy()


def record_codec(model: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Random codes decoded as a whole: 40 frames, and a part of the samples of 340."""
    generator = torch.Generator().manual_seed(7)
    codes = torch.randint(0, 2048, (1, 16, 340), generator=generator)
    decoder = model.model.speech_tokenizer.model.decoder
    with torch.inference_mode():
        arrays["codec/short/audio"] = decoder(codes[:, :, :40])[0, 0].numpy()
        arrays["codec/long/every-89th"] = decoder(codes)[0, 0, ::89].numpy()
    arrays["codec/codes"] = codes[0].t().numpy().astype(np.int16)


def keep_short_sounds(cases: list[dict[str, Any]], arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Sound is large and random weights make it noise: a few short ones are enough."""
    by_length: dict[str, dict[str, Any]] = {}
    for case in sorted(cases, key=lambda case: len(arrays[case["codes"]])):
        kind = case["checkpoint"] + ("/context" if "context" in case["name"] else "")
        if case["width"] == WIDTHS[0] and len(arrays[case["codes"]]) > 2:
            by_length.setdefault(kind, case)
    for case in list(by_length.values())[:NUM_SOUNDS]:
        case["audio"] = f"{case['name']}/audio"
    kept = {case["audio"] for case in cases}
    for case in cases:
        if f"{case['name']}/audio" not in kept:
            del arrays[f"{case['name']}/audio"]


if __name__ == "__main__":
    record()
