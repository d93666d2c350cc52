"""Which checkpoints are served when several places name some."""

from dataclasses import replace
from pathlib import Path

import pytest

from qwen3_audio.errors import StartError
from qwen3_audio.selection import select_checkpoints
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelKind


@pytest.fixture
def folders(tiny_tts: Path, tiny_asr: Path) -> dict[str, str]:
    return {folder.name: str(folder) for home in (tiny_tts, tiny_asr) for folder in home.iterdir()}


def select(settings: Settings, *model_paths: str) -> dict[ModelKind, Path]:
    return {
        checkpoint.kind: checkpoint.folder
        for checkpoint in select_checkpoints(settings, model_paths, lambda _: None)
    }


def test_nothing_named_is_nothing_served() -> None:
    assert select(Settings()) == {}


def test_each_variable_takes_its_own_kind(folders: dict[str, str]) -> None:
    settings = Settings(
        tts_customvoice_model_path=folders["tiny-CustomVoice"],
        tts_base_model_path=folders["tiny-Base"],
        tts_voicedesign_model_path=folders["tiny-VoiceDesign"],
        asr_model_path=folders["tiny-asr"],
        aligner_model_path=folders["tiny-aligner"],
    )
    assert set(select(settings)) == set(ModelKind)


def test_a_checkpoint_in_the_wrong_variable_is_refused_with_the_right_one(
    folders: dict[str, str],
) -> None:
    with pytest.raises(StartError, match="is a base checkpoint; set TTS_BASE_MODEL_PATH to it"):
        select(Settings(tts_customvoice_model_path=folders["tiny-Base"]))


def test_model_path_wins_over_variables_and_these_over_repositories(
    folders: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "Other-Base").symlink_to(folders["tiny-Base"])
    (tmp_path / "Other-ASR").symlink_to(folders["tiny-asr"])
    settings = Settings(
        models_dir=tmp_path,
        tts_base_model_path=folders["tiny-Base"],
        asr_model_path=folders["tiny-asr"],
        model_base_repo="nobody/Not-Even-Looked-For",
    )
    served = select(settings, str(tmp_path / "Other-ASR"))
    assert served[ModelKind.ASR] == tmp_path / "Other-ASR"
    assert served[ModelKind.BASE] == Path(folders["tiny-Base"])
    by_id = replace(settings, tts_base_model_path=None, model_base_repo="Qwen/Other-Base")
    assert select(by_id)[ModelKind.BASE] == tmp_path / "Other-Base"


def test_model_custom_repo_may_be_voice_design(folders: dict[str, str]) -> None:
    for name, kind in (("VoiceDesign", "voice_design"), ("CustomVoice", "custom_voice")):
        served = select(Settings(model_custom_repo=folders[f"tiny-{name}"]))
        assert set(served) == {ModelKind(kind)}
    with pytest.raises(StartError, match="set ASR_MODEL_PATH"):
        select(Settings(model_custom_repo=folders["tiny-asr"]))


def test_a_second_checkpoint_of_a_kind_stops_the_start(folders: dict[str, str]) -> None:
    with pytest.raises(StartError, match="both asr checkpoints; one of each kind"):
        select(Settings(), folders["tiny-asr"], folders["tiny-asr"])
    both = Settings(
        model_custom_repo=folders["tiny-VoiceDesign"],
        model_voicedesign_repo=folders["tiny-VoiceDesign"],
    )
    with pytest.raises(StartError, match="both voice_design checkpoints"):
        select(both)


def test_a_refusal_names_the_value_that_was_given() -> None:
    with pytest.raises(StartError, match=r"^ASR_MODEL_PATH=\./nowhere: There is no folder"):
        select(Settings(asr_model_path="./nowhere"))
    with pytest.raises(StartError, match=r"^--model-path=\./nowhere: "):
        select(Settings(), "./nowhere")
