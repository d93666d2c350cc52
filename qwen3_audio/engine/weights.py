"""A folder's JSON, weights and generation defaults. Nothing in it is executed."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwen3_audio.errors import StartError

Report = Callable[[str, int, int], None]  # what, tensors read, tensors in all


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the checkpoint; StartError that names the file otherwise."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise StartError(
            f"{path} is missing: this is no model folder, or its download is incomplete"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StartError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise StartError(f"{path} holds no JSON object")
    return value


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file in front of what is wrong in it."""
    try:
        yield
    except StartError as error:
        raise StartError(f"{path}: {error}") from error


# A smaller tensor is copied: one view keeps the whole file mapped, with all pages that were read.
MAPPED_BYTES = 1 << 20


class Weights(Mapping[str, Tensor]):
    """Tensors by name over all safetensors files, mapped from disk and cast on access."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
        report: Report | None = None,
        name_of: Callable[[str], str] = lambda stored: stored,
    ) -> None:
        self._folder, self._dtype, self._device = folder, dtype, device
        self._report = report
        self._num_read = 0
        self._files: dict[str, Any] = {}
        self._stored: dict[str, str] = {}
        for path in weight_files(folder):
            reader = _open(path)
            for stored in reader.keys():  # noqa: SIM118 (a reader is no mapping)
                self._files[name_of(stored)] = reader
                self._stored[name_of(stored)] = stored

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._files:
            raise StartError(f"The weights in {self._folder} have no tensor {name}")
        tensor: Tensor = self._files[name].get_tensor(self._stored[name])
        self._num_read += 1
        if self._report is not None:
            self._report(self._folder.name, self._num_read, len(self._files))
        dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
        wanted = tensor.to(device=self._device, dtype=dtype)
        is_mapped = wanted.data_ptr() == tensor.data_ptr()
        return wanted.clone() if is_mapped and tensor.nbytes < MAPPED_BYTES else wanted

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: model.safetensors, or the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        if not names or not all(isinstance(name, str) for name in names):
            raise StartError(f"{index} names no weight files")
    paths = [folder / Path(name).name for name in sorted(names)]
    for path in paths:
        if not path.is_file():
            raise StartError(f"{path} is missing: the download is incomplete")
    return paths


def _open(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except SafetensorError as error:
        raise StartError(f"{path} is damaged or only half downloaded: {error}") from error


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """generation_config.json with the official wrapper's fall-backs for what it leaves out."""

    temperature: float
    top_k: int
    top_p: float
    predictor_temperature: float
    predictor_top_k: int
    predictor_top_p: float
    repetition_penalty: float
    max_new_tokens: int
    eos_ids: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path) -> "GenerationDefaults":
        path = folder / "generation_config.json"
        stored = read_json(path) if path.exists() else {}
        config = {key: value for key, value in stored.items() if value is not None}
        eos = config.get("eos_token_id", [])
        is_random, predictor_is_random = (
            config.get(key, True) for key in ("do_sample", "subtalker_dosample")
        )
        return cls(
            temperature=config.get("temperature", 0.9) if is_random else 0.0,
            top_k=config.get("top_k", 50),
            top_p=config.get("top_p", 1.0),
            predictor_temperature=(
                config.get("subtalker_temperature", 0.9) if predictor_is_random else 0.0
            ),
            predictor_top_k=config.get("subtalker_top_k", 50),
            predictor_top_p=config.get("subtalker_top_p", 1.0),
            repetition_penalty=config.get("repetition_penalty", 1.05),
            max_new_tokens=config.get("max_new_tokens", 2048),
            eos_ids=tuple(eos) if isinstance(eos, list) else (eos,),
        )
