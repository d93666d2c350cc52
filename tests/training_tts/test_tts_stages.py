import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qwen3_audio.bench.manifest import read_manifest
from qwen3_audio.checkpoints import open_checkpoint
from training.package import main as package
from training.tts import trainer as trainer_module
from training.tts.__main__ import SHARES, main, train
from training.tts.assemble import FOLDERS, MAX_BYTES, assemble, packed_size
from training.tts.codec import build_decoder
from training.tts.features import SUBFRAMES
from training.tts.lexicon import Lexicon, write_sound
from training.tts.recite import recite
from training.tts.talker import build_talker
from training.tts.trainer import Losses, Schedule, Step, Trainer
from training.tts.voices import VOICES
from training.world.grammar import is_held_out, split_sentences

pytestmark = pytest.mark.slow  # of the training, not of the product


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def make_line_trainer(work: Path, budget_s: float = 1e9) -> tuple[Trainer, Step, list[float]]:
    line, targets = Line(), list[float]()

    def step(draw: np.random.Generator, share: float) -> Losses:
        targets.append(float(draw.normal(3.0, 0.1)))
        return {"loss": (line.weight - targets[-1]).square().sum()}

    return Trainer(work, "line", line, Schedule(budget_s, 0.05, report_every=10)), step, targets


def run_steps(trainer: Trainer, step: Step, number: int) -> None:
    for _ in range(number):
        trainer._step(step)
    trainer.save()


def test_training_goes_on_after_a_kill_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole, step, seen = make_line_trainer(tmp_path / "whole")
    run_steps(whole, step, 20)
    first, step, early = make_line_trainer(tmp_path / "parts")
    run_steps(first, step, 12)
    second, step, late = make_line_trainer(tmp_path / "parts")
    run_steps(second, step, 8)
    assert seen == early + late
    assert torch.equal(whole.model.weight, second.model.weight)  # type: ignore[arg-type]
    assert torch.equal(whole.average.weight, second.average.weight)  # type: ignore[arg-type]


def test_the_learning_rate_falls_to_almost_nothing_over_the_budget(tmp_path: Path) -> None:
    trainer, _, _ = make_line_trainer(tmp_path, budget_s=100.0)
    trainer.num_steps = 1000
    rates = []
    for used_s in (0.0, 50.0, 100.0, 1000.0):
        trainer.used_s = used_s
        rates.append(trainer._learning_rate())
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.05 * 0.01)


def test_a_network_whose_budget_is_used_up_is_left_alone(tmp_path: Path) -> None:
    trainer, step, seen = make_line_trainer(tmp_path, budget_s=0.0)
    assert trainer.run(step)
    assert not seen


def test_asked_to_stop_it_ends_after_the_step_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, step, seen = make_line_trainer(tmp_path)
    monkeypatch.setattr(trainer_module, "is_stopping", lambda: len(seen) == 3)
    assert not trainer.run(step)
    again, _, _ = make_line_trainer(tmp_path)
    assert again.num_steps == 3


@pytest.fixture(scope="module")
def trained(lexicon: Lexicon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the states of networks at their start."""
    work = tmp_path_factory.mktemp("trained")
    lexicon.save(work / "lexicon")
    for name, model in (
        ("codec", build_decoder(lexicon)),
        ("talker", build_talker(lexicon.vocabulary.size)),
    ):
        Trainer(work, name, model, Schedule(1.0, 1e-3)).save()
    return work


def test_three_folders_share_their_weights_and_differ_in_config(
    trained: Path, tmp_path: Path
) -> None:
    folders = assemble(trained, tmp_path)
    assert {path.name for path in folders.values()} == {*FOLDERS.values()}
    for kind, folder in folders.items():
        assert open_checkpoint(folder).kind.value == kind
        config = json.loads((folder / "config.json").read_text("utf-8"))
        assert config["tts_model_type"] == kind
        assert bool(config["talker_config"]["spk_id"]) == (kind == "custom_voice")
        assert ("speaker_encoder_config" in config) == (kind == "base")
    for name in ("model.safetensors", "speech_tokenizer/model.safetensors", "vocab.json"):
        assert len({os.stat(folder / name).st_ino for folder in folders.values()}) == 1
    assert packed_size(tmp_path) < MAX_BYTES


def test_assembling_again_replaces_what_was_there(trained: Path, tmp_path: Path) -> None:
    assemble(trained, tmp_path)
    (tmp_path / FOLDERS["base"] / "left-over").touch()
    folders = assemble(trained, tmp_path)
    assert not (folders["base"] / "left-over").exists()


def test_the_package_holds_the_weights_once(trained: Path, tmp_path: Path) -> None:
    finished = assemble(trained, tmp_path / "finished")
    pocket = tmp_path / "pocket"
    card = pocket / FOLDERS["base"] / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("# by hand")
    assert package(["--tts", str(tmp_path / "finished"), "--pocket", str(pocket)]) == 0
    assert open_checkpoint(pocket / FOLDERS["custom_voice"]).scope is not None
    assert len(list(pocket.rglob("*.safetensors"))) == 2
    for kind in ("base", "voice_design"):
        config = (pocket / FOLDERS[kind] / "config.json").read_bytes()
        assert config == (finished[kind] / "config.json").read_bytes()
    assert card.read_text() == "# by hand"


def test_a_damaged_checkpoint_is_not_packaged(trained: Path, tmp_path: Path) -> None:
    finished = assemble(trained, tmp_path / "finished")
    (finished["base"] / "merges.txt").unlink()
    with pytest.raises(SystemExit, match=r"merges\.txt is missing"):
        package(["--tts", str(tmp_path / "finished"), "--pocket", str(tmp_path / "pocket")])
    assert not (tmp_path / "pocket").exists()


def test_the_voice_recites_what_is_not_held_out(trained: Path, tmp_path: Path) -> None:
    recite(trained, tmp_path, 3)
    recordings = list(read_manifest(tmp_path / "manifest.json"))
    assert len(recordings) == 3
    for recording in recordings:
        assert recording.audio_s > 0.1
        assert not any(map(is_held_out, split_sentences(recording.text or "")))


@pytest.fixture(scope="module")
def sounding(lexicon: Lexicon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a shorter lexicon and its sound."""
    short = replace(
        lexicon,
        names=lexicon.names[:12],
        starts=lexicon.starts[:13],
        codes=lexicon.codes[: lexicon.starts[12]],
        features=lexicon.features[: SUBFRAMES * lexicon.starts[12]],
    )
    work = tmp_path_factory.mktemp("sounding")
    short.save(work / "lexicon")
    write_sound(short, work / "lexicon" / "sound.npy")
    return work


def test_sound_is_written_for_every_voice_and_frame(sounding: Path) -> None:
    sound = np.load(sounding / "lexicon" / "sound.npy", mmap_mode="r")
    num_frames = len(Lexicon.load(sounding / "lexicon").codes)
    assert sound.shape == (len(VOICES), num_frames * 1920)
    assert all(np.abs(row).max() > 1000 for row in sound)
    assert not list(sounding.rglob("*.tmp*"))


@pytest.mark.parametrize("network", ["codec", "encoder"])
def test_networks_train_on_a_lexicon_and_draw_their_curves(sounding: Path, network: str) -> None:
    train(sounding, [network], hours=0.2 / 3600 / SHARES[network])
    assert (sounding / f"{network}.pt").exists()
    assert (sounding / f"{network}.png").stat().st_size > 1000


def test_assembling_before_training_ends_in_one_sentence(work: Path, tmp_path: Path) -> None:
    arguments = ["--stage", "assemble", "--work", str(work), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="run the stage talker first"):
        main(arguments)
