"""A voice prompt as bytes that can be kept: safetensors with a version, nothing executable."""

import json
import struct

import numpy as np

from qwen3_audio.types import VoicePrompt

VERSION = "1"
VECTOR, CODES = "speaker_vector", "codes"


def pack_prompt(prompt: VoicePrompt, *, fingerprint: str) -> bytes:
    """The prompt and, as metadata, the version of this layout and who made it."""
    tensors = {VECTOR: np.ascontiguousarray(prompt.speaker_vector, dtype=np.float32)}
    if prompt.codes is not None:
        tensors[CODES] = np.ascontiguousarray(prompt.codes, dtype=np.int16)
    from safetensors.numpy import save  # here, so that the web side starts without it

    metadata = {"version": VERSION, "model_fingerprint": fingerprint}
    data: bytes = save(tensors, metadata=metadata)
    return data


def unpack_prompt(data: bytes, *, fingerprint: str, text: str) -> VoicePrompt | None:
    """None for another version, another maker or damaged bytes: then it is to be made anew."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    metadata = _read_metadata(data)
    if metadata.get("version") != VERSION or metadata.get("model_fingerprint") != fingerprint:
        return None
    try:
        tensors = load(data)
    except (SafetensorError, KeyError):  # KeyError: a type of number that numpy lacks
        return None
    vector, codes = tensors.get(VECTOR), tensors.get(CODES)
    if vector is None or vector.dtype != np.float32 or vector.ndim != 1:
        return None
    if codes is not None and (codes.dtype != np.int16 or codes.ndim != 2):
        return None
    return VoicePrompt(vector, codes, None if codes is None else text)


def _read_metadata(data: bytes) -> dict[str, object]:
    """What safetensors keeps in its header; its numpy reader drops it."""
    try:
        (header_bytes,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError):
        return {}
    return metadata if isinstance(metadata, dict) else {}
