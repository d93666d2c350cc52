"""What the benchmarks make of their measurements; no server, no model."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check_pocket, live, report, soak, work
from benchmarks.peers.__main__ import summarise


def test_always_the_same_twelve_sentences_are_spoken() -> None:
    sentences = check_pocket.draw_sentences()
    assert sentences == check_pocket.draw_sentences()
    assert [one.speaker for one in sentences] == ["ryan"] * 6 + ["vivian"] * 6
    assert sentences[0].text == "six zero four eight seven six."
    assert all(3 <= len(one.text.split()) <= 6 for one in sentences)


def test_word_errors_are_counted_over_all_sentences_without_case_and_punctuation() -> None:
    said = ["one two three.", "four five six seven."]
    assert check_pocket.word_error_rate(said, ["One two, three", "Four five six seven!"]) == 0
    assert check_pocket.word_error_rate(said, ["one two", "four five six seven"]) == 1 / 7
    assert check_pocket.word_error_rate(said, ["", ""]) == 1


def pocket_result(*, exact: int = 20, wer: float = 0.2) -> dict[str, Any]:
    clips = {"exact": exact, "of": 20, "wrong": []}
    return {"clips_alone": clips, "clips_at_once": clips, "digits": {"wer": wer, "of": []}}


def test_one_clip_that_came_back_different_is_a_missed_bound() -> None:
    assert all(check_pocket.judge({"float32": pocket_result()}).values())
    assert not all(check_pocket.judge({"float32": pocket_result(exact=19)}).values())
    assert not all(check_pocket.judge({"float32": pocket_result(wer=0.21)}).values())


SOAKED: dict[str, dict[str, Any]] = {
    "health": {
        "slowest_ms": 49.9,
        "num_calls": 200,
        "finished_meanwhile": {"speech 200": 8, "transcription 200": 8},
    },
    "leave": {"speech_streamed": [1, 2], "transcription": [0]},
    "full": {"speech": {"statuses": {"200": 3, "503": 5}, "retry_after": ["3"], "afterwards": 200}},
    "memory": {"drift": 0.05, "above_torch_mb": 250.0, "statuses": {"speech 200": 10}},
}


def test_figures_at_their_bounds_are_kept() -> None:
    assert all(soak.judge(SOAKED).values())


@pytest.mark.parametrize(
    ("part", "figure", "value"),
    [
        ("health", "slowest_ms", 50.0),
        ("health", "finished_meanwhile", {"speech 200": 8}),
        ("health", "finished_meanwhile", {"speech 200": 8, "transcription 500": 1}),
        ("leave", "speech_streamed", [1, 3]),
        ("full", "speech", SOAKED["full"]["speech"] | {"statuses": {"200": 8}}),
        ("full", "speech", SOAKED["full"]["speech"] | {"afterwards": 503}),
        ("full", "speech", SOAKED["full"]["speech"] | {"retry_after": ["3", "missing"]}),
        ("memory", "drift", 0.051),
        ("memory", "above_torch_mb", 250.1),
        ("memory", "statuses", {"speech 500 INSTEAD OF 200": 1}),
    ],
)
def test_a_figure_beyond_its_bound_is_missed(part: str, figure: str, value: Any) -> None:
    assert not all(soak.judge(SOAKED | {part: SOAKED[part] | {figure: value}}).values())


def test_only_parts_that_were_measured_are_judged() -> None:
    assert list(soak.judge({"leave": SOAKED["leave"]})) == [
        "leave: speech_streamed: slot free after 2 steps <= 2",
        "leave: transcription: slot free after 0 steps <= 2",
    ]


def test_metrics_are_read_by_name_and_labels() -> None:
    text = '# HELP x y\nqwen3_audio_running{kind="asr"} 3.0\nqwen3_audio_requests_in_flight 1.0\n'
    assert live.read_metrics(text) == {'running{kind="asr"}': 3.0, "requests_in_flight": 1.0}


def test_a_server_that_ends_before_its_greeting_is_noticed() -> None:
    log = live.Log()
    log.follow(["qwen3-audio: no checkpoint is named\n"])
    assert log.is_decided.is_set()
    assert log.address is None
    assert log.lines == ["qwen3-audio: no checkpoint is named"]


def test_the_address_is_taken_from_the_greeting() -> None:
    log = live.Log()
    log.follow(
        ["Loading\n", "INFO Serving asr from x on cpu at http://127.0.0.1:4711\n", "later\n"]
    )
    assert log.address == "http://127.0.0.1:4711"


def test_percentiles_are_values_that_occurred() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert report.percentile(values, 50) == 3.0
    assert report.percentile(values, 95) == 5.0
    assert report.percentile([7.0], 1) == 7.0


def test_a_part_measured_again_replaces_itself_alone(tmp_path: Path) -> None:
    report.write_result("some", {"a": 1, "b": 2}, tmp_path)
    path = report.write_result("some", {"b": 3}, tmp_path)
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert (kept["a"], kept["b"]) == (1, 3)
    assert set(kept["measured"]) == {"a", "b"}


def test_a_result_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    text = report.write_result("some", {"a": 1}, tmp_path).read_text(encoding="utf-8")
    assert "/" not in text.replace(report.describe_machine()["cpu"], "")


def test_a_missed_bound_makes_the_exit_code_1() -> None:
    lines: list[str] = []
    assert report.check_all({"fast": True, "small": False}, lines.append) == 1
    assert lines == ["kept    fast", "MISSED  small"]
    assert report.check_all({"fast": True}, lines.append) == 0


def test_tables_have_columns_as_wide_as_their_cells() -> None:
    assert report.format_table(["what", "s"], [["a", 1.5], ["longer", 2]]) == (
        "what    s\n------  -----\na       1.500\nlonger  2"
    )


def test_a_ratio_says_how_many_times_as_long_theirs_takes() -> None:
    rows = summarise([{"wall_s": 2.0}, {"wall_s": 1.0}], [{"wall_s": 3.0}, {"wall_s": 5.0}])
    assert rows["ratio"] == {"best": 3.0, "median": 2.667}


def test_a_run_of_another_length_ends_the_measurement() -> None:
    work.check_length(work.Done(60, 4.8), 60)
    with pytest.raises(SystemExit, match="Made 59 frames or tokens instead of 60"):
        work.check_length(work.Done(59, 4.72), 60)


def test_every_arm_hears_the_same_sound() -> None:
    sound = work.clip()
    assert len(sound) == 160_000
    assert abs(sound).max() < 1
    assert (sound == work.clip()).all()
