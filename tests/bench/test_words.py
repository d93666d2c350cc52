"""Manifests and word error rates."""

import json
from pathlib import Path

import numpy as np
import pytest

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.bench.manifest import read_manifest
from qwen3_audio.bench.word_errors import NOT_JUDGED, count_errors
from qwen3_audio.errors import BadRequest, StartError


def write_manifest(folder: Path, rows: object) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_clip(path: Path, seconds: float = 0.5) -> None:
    path.write_bytes(wav_bytes(np.zeros(round(16_000 * seconds), np.float32), 16_000))


def test_recordings_are_beside_the_manifest_or_above_it(tmp_path: Path) -> None:
    home = tmp_path / "heldout"
    home.mkdir()
    write_clip(home / "a.wav")
    write_clip(home / "b.wav", 1.5)
    rows = [{"file": "a.wav", "text": "one"}, {"file": "heldout/b.wav", "text": "two", "x": 1}]
    clips = read_manifest(write_manifest(home, rows))
    assert [(clip.name, clip.audio_s, clip.text) for clip in clips] == [
        ("a.wav", 0.5, "one"),
        ("b.wav", 1.5, "two"),
    ]


def test_missing_recordings_are_counted_and_named_in_one_sentence(tmp_path: Path) -> None:
    write_clip(tmp_path / "here.wav")
    names = ["here.wav", "1.wav", "2.wav", "3.wav", "4.wav", "5.wav"]
    path = write_manifest(tmp_path, [{"file": name, "text": ""} for name in names])
    with pytest.raises(StartError) as refused:
        read_manifest(path)
    assert str(refused.value) == (
        f"5 of 6 files of {path} are not there: 1.wav, 2.wav, 3.wav and 2 more"
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "must be a list"),
        ({"file": "a.wav"}, "must be a list"),
        ([{"file": "a.wav", "text": "x"}, {"file": "a.wav"}], "Entry 2 of"),
        ([{"file": "", "text": "x"}], "Entry 1 of"),
        ([["a.wav", "x"]], "Entry 1 of"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(tmp_path: Path, rows: object, words: str) -> None:
    with pytest.raises(StartError, match=words):
        read_manifest(write_manifest(tmp_path, rows))


def test_what_is_no_manifest_or_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="Can't read the manifest"):
        read_manifest(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("no json")
    with pytest.raises(StartError, match="is not JSON"):
        read_manifest(tmp_path / "text.json")
    (tmp_path / "noise.wav").write_bytes(b"noise" * 100)
    with pytest.raises(StartError, match="is no recording"):
        read_manifest(write_manifest(tmp_path, [{"file": "noise.wav", "text": ""}]))


def test_errors_are_counted_over_all_clips_without_case_and_punctuation() -> None:
    said = ["It's a cold, grey day.", "Come in!"]
    assert count_errors(said, ["it is a cold gray day", "COME IN"], "en")["wer"] == 0
    counted = count_errors(said, ["it is a cold gray night", ""], None)
    assert (counted["substitutions"], counted["deletions"], counted["insertions"]) == (1, 2, 0)
    assert counted["num_words"] == 8
    assert counted["wer"] == round(3 / 8, 4)


def test_other_languages_keep_their_letters() -> None:
    counted = count_errors(["Größe, bitte."], ["größe bitte"], "de")
    assert (counted["wer"], counted["cer"]) == (0, 0)
    with pytest.raises(BadRequest):
        count_errors(["a"], ["a"], "klingon")


def test_clips_without_a_text_are_not_judged() -> None:
    assert count_errors(["", "come in"], ["noise", "come"], "en")["num_words"] == 2
    assert count_errors([""], ["noise"], "en")["wer"] == NOT_JUDGED
