"""Reading a checkpoint's files: whole, sharded, damaged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qwen3_audio.engine.weights import GenerationDefaults, Weights, read_json, weight_files
from qwen3_audio.errors import StartError

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b.weight": torch.arange(4, dtype=torch.bfloat16),
    "b.steps": torch.tensor([7]),
}
INDEX = "model.safetensors.index.json"


def open_weights(folder: Path, dtype: torch.dtype = torch.float32, **settings: object) -> Weights:
    return Weights(folder, dtype=dtype, device=torch.device("cpu"), **settings)


def write_whole(folder: Path) -> None:
    save_file(TENSORS, folder / "model.safetensors")


def write_shards(folder: Path) -> None:
    first = {"a.weight": TENSORS["a.weight"]}
    second = {name: tensor for name, tensor in TENSORS.items() if name != "a.weight"}
    names: dict[str, str] = {}
    for at, shard in enumerate((first, second), 1):
        name = f"model-0000{at}-of-00002.safetensors"
        save_file(shard, folder / name)
        names |= dict.fromkeys(shard, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("write", [write_whole, write_shards])
def test_all_tensors_are_there_whole_or_in_shards(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path)
    weights = open_weights(tmp_path)
    assert sorted(weights) == sorted(TENSORS)
    assert len(weights) == 3
    for name, tensor in TENSORS.items():
        assert name in weights
        assert torch.equal(weights[name], tensor.to(weights[name].dtype))


def test_floating_point_is_cast_and_whole_numbers_are_not(tmp_path: Path) -> None:
    write_whole(tmp_path)
    weights = open_weights(tmp_path, torch.bfloat16)
    dtypes: dict[str, Tensor] = dict(weights)
    assert {name: tensor.dtype for name, tensor in dtypes.items()} == {
        "a.weight": torch.bfloat16,
        "b.weight": torch.bfloat16,
        "b.steps": torch.int64,
    }


def test_names_of_another_layout_can_be_mapped(tmp_path: Path) -> None:
    write_whole(tmp_path)
    weights = open_weights(tmp_path, name_of=lambda stored: "thinker." + stored)
    assert "thinker.a.weight" in weights
    assert "a.weight" not in weights
    assert torch.equal(weights["thinker.a.weight"], TENSORS["a.weight"])


def test_progress_is_reported_tensor_by_tensor(tmp_path: Path) -> None:
    write_shards(tmp_path)
    reports: list[tuple[str, int, int]] = []
    weights = open_weights(tmp_path, report=lambda *report: reports.append(report))
    for name in TENSORS:
        weights[name]
    assert reports == [(tmp_path.name, at, 3) for at in (1, 2, 3)]


def test_a_missing_tensor_is_named_with_its_folder(tmp_path: Path) -> None:
    write_whole(tmp_path)
    with pytest.raises(StartError, match=r"have no tensor c\.weight"):
        open_weights(tmp_path)["c.weight"]


def test_no_weights_at_all_is_an_incomplete_download(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"model\.safetensors is missing"):
        open_weights(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(StartError, match="model-00002-of-00002"):
        open_weights(tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 5, 60, -1])
def test_a_file_cut_off_anywhere_is_named(tmp_path: Path, num_bytes: int) -> None:
    write_whole(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(StartError, match="half downloaded") as error:
        open_weights(tmp_path)
    assert str(path) in str(error.value)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write_whole(tmp_path)
    (inside / INDEX).write_text(json.dumps({"weight_map": {"a.weight": "../model.safetensors"}}))
    with pytest.raises(StartError, match="is missing"):
        open_weights(inside)
    write_whole(inside)
    assert weight_files(inside) == [inside / "model.safetensors"]


@pytest.mark.parametrize("weight_map", [[], "x", {"a": 1}, None])
def test_an_index_that_names_no_files_is_damaged(tmp_path: Path, weight_map: object) -> None:
    write_whole(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(StartError, match=INDEX):
        open_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{}", b"nonsense"])
def test_json_that_is_none_is_named_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(StartError) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_json_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"config\.json is missing"):
        read_json(tmp_path / "config.json")


def write_defaults(folder: Path, **config: object) -> GenerationDefaults:
    (folder / "generation_config.json").write_text(json.dumps(config))
    return GenerationDefaults.read(folder)


def test_defaults_come_from_the_checkpoint(tmp_path: Path) -> None:
    read = write_defaults(
        tmp_path,
        temperature=0.5,
        top_k=7,
        top_p=0.8,
        subtalker_temperature=0.6,
        subtalker_top_k=8,
        subtalker_top_p=0.7,
        repetition_penalty=1.2,
        max_new_tokens=99,
        eos_token_id=[3, 4],
    )
    assert (read.temperature, read.top_k, read.top_p) == (0.5, 7, 0.8)
    predictor = (read.predictor_temperature, read.predictor_top_k, read.predictor_top_p)
    assert predictor == (0.6, 8, 0.7)
    assert (read.repetition_penalty, read.max_new_tokens, read.eos_ids) == (1.2, 99, (3, 4))


def test_what_the_checkpoint_leaves_out_is_the_official_default(tmp_path: Path) -> None:
    for read in (
        GenerationDefaults.read(tmp_path),
        write_defaults(tmp_path, temperature=None, top_k=None, eos_token_id=None),
    ):
        assert (read.temperature, read.top_k, read.top_p) == (0.9, 50, 1.0)
        assert (read.repetition_penalty, read.max_new_tokens) == (1.05, 2048)
        assert read.eos_ids == ()


def test_a_checkpoint_may_be_greedy_by_default(tmp_path: Path) -> None:
    read = write_defaults(tmp_path, do_sample=False, subtalker_dosample=False, temperature=0.9)
    assert (read.temperature, read.predictor_temperature) == (0.0, 0.0)


def test_one_end_token_may_stand_alone(tmp_path: Path) -> None:
    assert write_defaults(tmp_path, eos_token_id=5).eos_ids == (5,)
