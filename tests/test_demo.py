"""The pocket models in the package and the folders that a start makes of them."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from qwen3_audio import demo
from qwen3_audio.assembly import choose_checkpoints
from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.errors import StartError
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelKind

MAX_BYTES = 30_000_000
MAX_FILE_BYTES = 15_000_000


def start(cache: Path) -> tuple[list[Path], list[str]]:
    """The folders, and what was reported on the way."""
    said: list[str] = []
    return demo.demo_folders(Settings(xdg_cache_home=cache), said.append), said


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the models that may be harmed."""
    copy = shutil.copytree(demo.POCKET, tmp_path / "pocket")
    monkeypatch.setattr(demo, "POCKET", copy)
    return copy


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_one_checkpoint_of_each_kind_says_pocket_and_what_it_can_do(tmp_path: Path) -> None:
    found = [open_checkpoint(folder) for folder in start(tmp_path)[0]]
    assert [checkpoint.kind for checkpoint in found] == [
        ModelKind.CUSTOM_VOICE,
        ModelKind.VOICE_DESIGN,
        ModelKind.BASE,
        ModelKind.ASR,
    ]
    assert all(checkpoint.name.startswith("pocket-") for checkpoint in found)
    assert all(checkpoint.scope and "English" in checkpoint.scope.about for checkpoint in found[:3])


def test_the_second_start_finds_what_the_first_one_made(tmp_path: Path) -> None:
    folders, said = start(tmp_path)
    assert len(said) == 1
    assert start(tmp_path) == (folders, [])


def test_a_folder_that_was_cut_off_in_the_cache_is_made_again(tmp_path: Path) -> None:
    folders, _ = start(tmp_path)
    cut(folders[1] / "model.safetensors")
    assert len(start(tmp_path)[1]) == 1
    assert open_checkpoint(folders[1]).kind is ModelKind.VOICE_DESIGN


@pytest.mark.parametrize("name", [demo.WHOLE, demo.LISTENING])
def test_a_checkpoint_that_is_torn_in_half_stops_the_start(
    package: Path, tmp_path: Path, name: str
) -> None:
    cut(package / name / "model.safetensors")
    with pytest.raises(StartError, match=rf"{name} is incomplete: model.safetensors is cut off"):
        choose_checkpoints(Settings(xdg_cache_home=tmp_path / "cache"), [], is_demo=True)


def test_other_weights_go_into_another_folder(package: Path, tmp_path: Path) -> None:
    before = start(tmp_path / "cache")[0]
    weights = package / demo.WHOLE / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    after = start(tmp_path / "cache")[0]
    assert before[1].parent != after[1].parent
    assert (after[1] / "model.safetensors").read_bytes() == content


def test_a_package_that_nobody_may_write_is_enough(package: Path, tmp_path: Path) -> None:
    for path in sorted(package.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folders, _ = start(tmp_path / "cache")
    assert open_checkpoint(folders[2]).kind is ModelKind.BASE
    modes = [path.stat().st_mode for folder in folders[1:3] for path in folder.rglob("*")]
    assert all(mode & 0o200 for mode in modes)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(StartError, match="No space left on device"):
        start(tmp_path)
    assert list((tmp_path / "qwen3-audio").iterdir()) == []


def test_a_quicker_start_is_not_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out = demo.lay_out
    inodes = []

    def be_late(home: Path) -> None:
        lay_out(home)
        monkeypatch.setattr(demo, "lay_out", lay_out)
        folders, _ = start(tmp_path)
        inodes.append(folders[1].stat().st_ino)

    monkeypatch.setattr(demo, "lay_out", be_late)
    folders, _ = start(tmp_path)
    assert [folders[1].stat().st_ino] == inodes


def test_a_cache_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(StartError, match="set XDG_CACHE_HOME to a folder that is writable"):
        start(tmp_path / "cache")


def test_the_models_are_small_enough_to_be_shipped() -> None:
    sizes = [path.stat().st_size for path in demo.POCKET.rglob("*") if path.is_file()]
    assert sum(sizes) <= MAX_BYTES
    assert max(sizes) <= MAX_FILE_BYTES


def test_every_model_has_a_card_that_says_what_it_is_not() -> None:
    for name in (demo.WHOLE, *demo.VARIANTS, demo.LISTENING):
        card = (demo.POCKET / name / "README.md").read_text(encoding="utf-8")
        assert card.startswith(f"# {name}")
        assert "What it is not" in card
