"""The table of bounds, and the file of figures, on figures made up here."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen3_audio.errors import StartError
from qwen3_audio.types import ModelKind
from training.measure import __main__ as program
from training.measure.bounds import NOT_MEASURED, Line, judge
from training.measure.figures import follows, words_of
from training.measure.plan import FOLDERS, Json, Plan, find_models
from training.measure.results import Results

pytestmark = pytest.mark.slow  # of the training, not of the product


def speaker(greedy: float, mp3: float = 0.0) -> Json:
    return {"greedy": {"wer": greedy}, "mp3": {"wer": mp3}}


def ends(ended: int) -> Json:
    return {"ends": {"greedy": {"texts": 1000, "ended": ended}}}


def clones(with_text: float, without: float) -> Json:
    end = {"texts": 10, "ended": 10}
    wers = {"with_text": with_text, "without_text": without}
    return {way: {"wer": wer, "ends": end} for way, wer in wers.items()}


def start(spoken_s: float) -> Json:
    first = {"spoken_s": spoken_s}
    return {"start": {"first": first, "again": first, "import_torch_s": 1.0, "uv_s": None}}


def factors(speech: float, transcription: float) -> Json:
    rows = {"speech": speech, "transcription": transcription}
    shown = {name: {"rtf": rtf, "processor": None} for name, rtf in rows.items()}
    return {"one_core": {**shown, "load_average": 0.1}}


def read_line(part: str, figures: Json, what: str) -> Line:
    [line] = [line for line in judge({part: figures}) if what in line.what]
    return line


@pytest.mark.parametrize(
    ("part", "what", "kept", "missed"),
    [
        ("official_speech", "same codes", {"same": 9, "of": 9}, {"same": 8, "of": 9}),
        ("official_listening", "same tokens", {"same": 1, "of": 1}, {"same": 0, "of": 0}),
        (
            "listening",
            "trained voices",
            {"speech": {"trained_voices": {"wer": 0.03, "clips": 500}}},
            {"speech": {"trained_voices": {"wer": 0.031, "clips": 500}}},
        ),
        (
            "listening",
            "Annie",
            {"speech": {"never_trained_Annie": {"wer": 0.06, "clips": 150}}},
            {"speech": {"never_trained_Annie": {"wer": 0.061, "clips": 150}}},
        ),
        (
            "listening",
            "empty",
            {"silent": {"noise": {"empty": 1.0}, "music": {"empty": 1.0}}},
            {"silent": {"noise": {"empty": 1.0}, "music": {"empty": 0.99}}},
        ),
        (
            "round_trip",
            "each speaker",
            {"speakers": {"ryan": speaker(0.08), "eric": speaker(0.01)}, "wer": {"greedy": 0.04}},
            {"speakers": {"ryan": speaker(0.09), "eric": speaker(0.01)}, "wer": {"greedy": 0.05}},
        ),
        (
            "round_trip",
            "mp3",
            {"speakers": {"ryan": speaker(1.0, 0.12)}, "wer": {"mp3": 0.12}},
            {"speakers": {"ryan": speaker(0.0, 0.13)}, "wer": {"mp3": 0.13}},
        ),
        (
            "judged",
            "another recogniser",
            {"speakers": {"ryan": {"wer": 0.25}}, "wer": 0.25},
            {"speakers": {"ryan": {"wer": 0.26}}, "wer": 0.26},
        ),
        ("clones", "Round trip of cloned", clones(0.2, 0.2), clones(0.1, 0.21)),
        ("round_trip", "Speech that ends", ends(995), ends(994)),
        ("speed", "first speech", start(9.9), start(10.0)),
        ("speed", "factor of speech", factors(0.15, 1.0), factors(0.151, 0.0)),
        ("speed", "factor of transcription", factors(1.0, 0.1), factors(0.0, 0.101)),
    ],
)
def test_a_bound_is_kept_up_to_its_figure_and_missed_beyond(
    part: str, what: str, kept: Json, missed: Json
) -> None:
    assert read_line(part, kept, what).is_kept is True
    assert read_line(part, missed, what).is_kept is False


def test_what_was_not_measured_is_neither_kept_nor_missed() -> None:
    lines = judge({})
    assert len(lines) == 18
    assert {(line.measured, line.is_kept, line.verdict) for line in lines} == {
        (NOT_MEASURED, None, "-")
    }


def test_the_worst_speaker_is_named() -> None:
    rows = {"ryan": speaker(0.02), "sohee": speaker(0.11)}
    figures = {"speakers": rows, "wer": {"greedy": 0.065}}
    line = read_line("round_trip", figures, "each speaker")
    assert line.measured == "worst 11.0 % (sohee), all 6.5 %"


def test_words_count_without_case_and_punctuation_and_errors_can_be_read() -> None:
    row = words_of(["Hello, world.", "Good night."], ["hello world", "Good light."])
    assert row["wer"] == 0.25 and row["exact"] == 0.5
    assert row["wrong"] == [{"said": "Good night.", "heard": "Good light."}]


def test_following_is_measured_in_ratios() -> None:
    assert follows([100.0, 200.0, 400.0], [50.0, 100.0, 200.0]) == 1.0
    assert follows([100.0, 200.0, 400.0], [200.0, 100.0, 50.0]) == -1.0
    assert follows([100.0, 200.0, 400.0], [90.0, 90.0, 90.0]) is None
    assert follows([100.0, None, 400.0], [90.0, 91.0, 92.0]) is None


def official(same: int) -> Callable[[Plan], Json]:
    return lambda _: {"same": same, "of": 9}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Plan], Json | None]]:
    """The program's own parts, to be replaced; no models are needed."""
    made: dict[str, Callable[[Plan], Json | None]] = {}
    monkeypatch.setattr(program, "PARTS", made)
    monkeypatch.setattr(program, "find_models", lambda _: {})
    return made


def run(out: Path, *more: str) -> tuple[int, Json]:
    code = program.main(["--out", str(out), *more])
    return code, json.loads((out / "pocket-models.json").read_text("utf-8"))


def test_a_part_that_fails_is_reported_and_the_others_go_on(
    tmp_path: Path,
    parts: dict[str, Callable[[Plan], Json | None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: Plan) -> Json:
        raise ValueError("the sun was in its eyes")

    parts |= {"listening": fail, "official_speech": official(9)}
    code, kept = run(tmp_path, "--parts", "listening,official_speech")
    assert code == 1
    assert kept["failed"]["listening"]["why"] == "ValueError: the sun was in its eyes"
    assert kept["parts"]["official_speech"]["figures"] == {"same": 9, "of": 9}
    assert "listening: FAILED" in capsys.readouterr().out
    assert "the sun was in its eyes" in (tmp_path / "pocket-models.md").read_text("utf-8")


def test_what_is_not_measured_again_stays_and_a_success_ends_a_failure(
    tmp_path: Path, parts: dict[str, Callable[[Plan], Json | None]]
) -> None:
    def fail(_: Plan) -> Json:
        raise StartError("no such folder")

    parts |= {"official_speech": official(9), "official_listening": official(9)}
    assert run(tmp_path, "--parts", "official_speech,official_listening")[0] == 0
    parts["official_speech"] = fail
    code, kept = run(tmp_path, "--parts", "official_speech")
    assert code == 1 and kept["failed"]["official_speech"]["why"] == "no such folder"
    assert [*kept["parts"]] == ["official_speech", "official_listening"]
    parts["official_speech"] = official(8)
    code, kept = run(tmp_path, "--parts", "official_speech")
    assert code == 1 and not kept["failed"]
    assert kept["parts"]["official_speech"]["figures"]["same"] == 8
    assert kept["parts"]["official_listening"]["figures"]["same"] == 9


def test_a_part_without_its_option_is_left_out_and_nothing_is_lost(
    tmp_path: Path, parts: dict[str, Callable[[Plan], Json | None]]
) -> None:
    parts["judged"] = lambda _: {"words": 500, "speakers": {"ryan": {"wer": 0.1}}, "wer": 0.1}
    run(tmp_path, "--parts", "judged")
    parts["judged"] = lambda _: None
    code, kept = run(tmp_path, "--parts", "judged")
    assert code == 0 and kept["parts"]["judged"]["figures"]["words"] == 500


def test_the_page_says_which_figures_are_a_trial_and_which_weights_they_are_of(
    tmp_path: Path,
) -> None:
    first = Results(Plan({}, tmp_path, num_sentences=6), {"asr": "aaaa"})
    first.keep("official_speech", {"same": 9, "of": 9}, took_s=1.0, load_average=0.5)
    page = (tmp_path / "pocket-models.md").read_text("utf-8")
    assert "**A trial**" in page and "same weights" not in page
    second = Results(Plan({}, tmp_path), {"asr": "bbbb"})
    second.keep("official_listening", {"same": 9, "of": 9}, took_s=1.0, load_average=0.5)
    assert "**Not all parts were measured on the same weights**" in (
        tmp_path / "pocket-models.md"
    ).read_text("utf-8")


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "pocket-models.json").write_text("[1, 2]")
    with pytest.raises(StartError, match="is no result of python"):
        Results(Plan({}, tmp_path), {})


def test_a_missing_model_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"{FOLDERS[ModelKind.ASR]}; --models needs pocket-asr"):
        find_models(tmp_path)
    with pytest.raises(SystemExit, match="There is no folder"):
        program.main(["--models", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--parts", "speed,sped"], "not sped"), (["--sentences", "0"], "not a number from 1 on")],
)
def test_options_that_mean_nothing_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
