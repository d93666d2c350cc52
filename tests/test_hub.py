"""A value → a folder: what is here is used, the rest is fetched, checked, continued or refused."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from fake_hub import COMMIT, FakeHub, run_hub

from qwen3_audio.checkpoints import find_damage
from qwen3_audio.errors import StartError
from qwen3_audio.hub import download, find_folder, find_here, is_hub_id
from qwen3_audio.settings import Settings

REPO = "Qwen/Tiny-ASR"


@pytest.fixture
def hub(tiny_asr: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one small ASR checkpoint, and no trace of any other hub on this machine."""
    folder = tiny_asr / "tiny-asr"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    extra = {"pytorch_model.bin": b"pickle", "run.py": b"print()", "README.md": b"#"}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with run_hub(FakeHub(REPO, files | extra)) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(models_dir=tmp_path / "models")


def ignore(_: str) -> None: ...


def refusal(settings: Settings, value: str = REPO) -> str:
    with pytest.raises(StartError) as caught:
        find_folder(value, settings, ignore)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_fresh_download_is_complete_and_holds_nothing_else(
    hub: FakeHub, settings: Settings
) -> None:
    lines: list[str] = []
    folder = find_folder(REPO, settings, lines.append)
    assert folder == settings.models_dir / "Tiny-ASR"
    assert find_damage(folder) is None
    names = {path.name for path in folder.iterdir()}
    assert names == {name for name in hub.files if name.endswith((".json", ".txt", ".safetensors"))}
    assert all((folder / name).read_bytes() == hub.files[name] for name in names)
    assert lines[0].startswith("Downloading Qwen/Tiny-ASR: ")
    assert f"{REPO}: 100 %" in lines


def test_what_is_in_the_models_folder_is_used_without_a_request(
    hub: FakeHub, settings: Settings
) -> None:
    folder = download(REPO, settings, ignore)
    hub.requests.clear()
    assert find_folder(REPO, settings, ignore) == folder
    assert find_folder("Tiny-ASR", settings, ignore) == folder
    assert find_folder(str(folder), settings, ignore) == folder
    assert hub.requests == []


def test_what_is_in_the_hubs_own_cache_is_used_without_a_request(
    hub: FakeHub, settings: Settings, tmp_path: Path, tiny_asr: Path
) -> None:
    repository = tmp_path / "hf" / "models--Qwen--Tiny-ASR"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.parent.mkdir()
    snapshot.symlink_to(tiny_asr / "tiny-asr", target_is_directory=True)
    assert find_folder(REPO, settings, ignore) == snapshot
    assert hub.requests == []


def test_a_broken_connection_goes_on_where_it_stopped(hub: FakeHub, settings: Settings) -> None:
    hub.cuts = [1000, 5000]
    folder = find_folder(REPO, settings, ignore)
    assert find_damage(folder) is None
    ranges = [start for path, start, _ in hub.requests if path.endswith(".safetensors")]
    assert ranges == [None, "bytes=1000-", "bytes=6000-"]


def test_an_interrupted_download_goes_on_at_the_next_start(
    hub: FakeHub, settings: Settings
) -> None:
    hub.cuts = [1000, 0]
    message = refusal(settings)
    assert "model.safetensors" in message
    assert "the same command goes on from there" in message
    assert not (settings.models_dir / "Tiny-ASR" / "model.safetensors").exists()
    hub.requests.clear()
    find_folder(REPO, settings, ignore)
    assert [start for path, start, _ in hub.requests if "/resolve/" in path] == ["bytes=1000-"]


def test_a_server_that_cannot_continue_is_asked_for_the_whole(
    hub: FakeHub, settings: Settings
) -> None:
    hub.cuts = [1000]
    hub.ignores_ranges = True
    assert find_damage(find_folder(REPO, settings, ignore)) is None


def test_a_part_with_other_content_is_thrown_away(hub: FakeHub, settings: Settings) -> None:
    hub.cuts = [1000, 0]
    refusal(settings)
    (part,) = (settings.models_dir / "Tiny-ASR").glob(".*.part")
    part.write_bytes(b"x" * len(hub.files["model.safetensors"]))
    with pytest.raises(StartError, match="arrived damaged"):
        download(REPO, settings, ignore)
    assert find_damage(download(REPO, settings, ignore)) is None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_another_content_than_the_hub_promised_is_refused(
    hub: FakeHub, settings: Settings, name: str
) -> None:
    hub.listing = hub.describe()
    hub.files[name] = hub.files[name][:-1] + b"?"
    assert f"{name} arrived damaged" in refusal(settings)
    assert not (settings.models_dir / "Tiny-ASR" / name).exists()


def test_a_damaged_file_that_is_there_is_fetched_again(hub: FakeHub, settings: Settings) -> None:
    weights = download(REPO, settings, ignore) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    find_folder(REPO, settings, ignore)
    assert weights.read_bytes() == hub.files["model.safetensors"]


@pytest.mark.parametrize(
    ("token", "words"), [(None, "set HF_TOKEN"), ("wrong", "the owner of this HF_TOKEN")]
)
def test_a_private_repository_asks_for_a_token(
    hub: FakeHub, settings: Settings, token: str | None, words: str
) -> None:
    hub.token = "right"
    message = refusal(replace(settings, hf_token=token))
    assert words in message
    assert "wrong" not in message
    assert find_folder(REPO, replace(settings, hf_token="right"), ignore)


def test_the_token_is_not_told_to_the_storage_behind_the_hub(
    hub: FakeHub, settings: Settings
) -> None:
    hub.token = "secret"
    with run_hub(FakeHub(REPO, hub.files)) as storage:
        hub.storage = storage.endpoint
        find_folder(REPO, replace(settings, hf_token="secret"), ignore)
        assert storage.paths() == [f"/{REPO}/resolve/{COMMIT}/model.safetensors"]
        assert [authorization for _, _, authorization in storage.requests] == [None]


@pytest.mark.parametrize(
    ("status", "words"), [(404, "The hub has no Qwen/Tiny-ASR"), (503, "try again later")]
)
def test_the_hubs_refusals_are_told_in_a_sentence(
    hub: FakeHub, settings: Settings, status: int, words: str
) -> None:
    hub.status = status
    assert words in refusal(settings)


@pytest.mark.parametrize(
    "listing", [b"<html>log in first</html>", b"[]", b"{}", b'{"sha": 1, "siblings": [{}]}']
)
def test_an_answer_that_is_no_listing_is_told_in_a_sentence(
    hub: FakeHub, settings: Settings, listing: bytes
) -> None:
    hub.listing = listing
    assert "makes no sense" in refusal(settings)


@pytest.mark.parametrize("name", ["../escape.json", "/etc/escape.json", "a/../../escape.json"])
def test_a_file_name_cannot_leave_the_folder(hub: FakeHub, settings: Settings, name: str) -> None:
    hub.files[name] = b"{}"
    assert "makes no sense" in refusal(settings)
    assert not list(settings.models_dir.parent.rglob("escape.json"))


def test_a_repository_without_safetensors_is_refused(hub: FakeHub, settings: Settings) -> None:
    del hub.files["model.safetensors"]
    assert "no safetensors weights" in refusal(settings)


def test_without_a_network_the_sentence_names_the_missing_file(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = download(REPO, settings, ignore)
    (folder / "merges.txt").unlink()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refusal(settings)
    assert "merges.txt is missing" in message
    assert "Can't reach http://127.0.0.1:9" in message


def test_offline_mode_makes_no_request(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(settings)
    assert hub.requests == []


def test_an_unwritable_models_folder_is_told_in_a_sentence(
    hub: FakeHub, settings: Settings
) -> None:
    settings.models_dir.write_text("a file where a folder should be")
    assert "make MODELS_DIR writable" in refusal(settings)


def test_a_full_disk_is_told_before_anything_is_fetched(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert "GB free" in refusal(settings)
    assert not [path for path in hub.paths() if "/resolve/" in path]


def test_what_is_neither_a_folder_nor_an_id_is_refused_without_a_request(
    hub: FakeHub, settings: Settings
) -> None:
    for value in ("./nowhere", "/nowhere/at/all", "nowhere", "a/b/c", f"{settings.models_dir}/x"):
        assert refusal(settings, value) == f"There is no folder {value}"
    assert hub.requests == []


def test_ids_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models_dir = Path("models")
    assert is_hub_id("Qwen/Qwen3-ASR-0.6B", models_dir)
    for path in ("models/Qwen3-ASR-0.6B", "./a/b", "../a", "a", "a/b/c", "/a/b", "a/..", "ä/b"):
        assert not is_hub_id(path, models_dir)


def test_looking_without_downloading_finds_nothing_at_first(
    hub: FakeHub, settings: Settings
) -> None:
    assert find_here(REPO, settings) is None
    assert hub.requests == []
    folder = download(REPO, settings, ignore)
    assert find_here(REPO, settings) == folder
