"""The codec decoder of each speech checkpoint; those with the same files share one."""

import filecmp
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qwen3_audio.engine.device import Device
from qwen3_audio.engine.weights import Report, Weights, naming, read_json, weight_files
from qwen3_audio.models.codec import CodecDecoder


@dataclass(frozen=True, slots=True)
class Codec:
    """A loaded codec decoder, and the speech_tokenizer folder it was made of."""

    folder: Path
    config: dict[str, Any]
    decoder: CodecDecoder


class SharedCodecs:
    """All official 12 Hz checkpoints carry the same codec of 682 MB: it is kept once.

    A decoder holds nothing of a request, so that any number of runners may share it.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._codecs: list[Codec] = []

    def load(self, checkpoint_folder: Path, report: Report | None = None) -> Codec:
        """StartError names what is missing or damaged."""
        folder = checkpoint_folder / "speech_tokenizer"
        config = read_json(folder / "config.json")
        for codec in self._codecs:
            if codec.config == config and _have_same_weights(codec.folder, folder):
                return codec
        weights = codec_weights(checkpoint_folder, self._device, report)
        with naming(folder / "config.json"):
            decoder = CodecDecoder.from_weights(config, weights, dtype=self._device.dtype)
        self._codecs.append(Codec(folder, config, decoder))
        return self._codecs[-1]


def codec_weights(checkpoint_folder: Path, device: Device, report: Report | None = None) -> Weights:
    """In float32 as they are stored; the decoder casts what it computes in less."""
    folder = checkpoint_folder / "speech_tokenizer"
    return Weights(folder, dtype=torch.float32, device=device.device, report=report)


def _have_same_weights(one: Path, other: Path) -> bool:
    """Byte by byte; names and dates say nothing about copies."""
    ones, others = weight_files(one), weight_files(other)
    return len(ones) == len(others) and all(
        first.samefile(second) or filecmp.cmp(first, second, shallow=False)
        for first, second in zip(ones, others, strict=True)
    )
