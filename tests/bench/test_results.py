"""Tables, comparisons and pictures of results."""

from pathlib import Path
from typing import Any

import pytest

from qwen3_audio.bench.compare import compare_results, describe_differences, format_comparison
from qwen3_audio.bench.figures import summarise, summarise_listening
from qwen3_audio.bench.plots import check_plot, write_plot
from qwen3_audio.bench.results import (
    FORMAT,
    describe_machine,
    format_points,
    format_table,
    read_result,
    write_result,
)
from qwen3_audio.bench.sample import Arrival, Sample
from qwen3_audio.bench.word_errors import check_packages
from qwen3_audio.errors import StartError


def sample(latency_s: float, error: str | None = None) -> Sample:
    return Sample(
        planned_s=0.0,
        begin_s=0.0,
        end_s=latency_s,
        first_byte_s=latency_s / 4,
        arrivals=(Arrival(latency_s / 4, 4.0),),
        audio_s=4.0,
        error=error,
    )


def result(*latencies_s: float, error: str | None = None, mode: str = "closed") -> dict[str, Any]:
    points = []
    for load, latency_s in enumerate(latencies_s, 1):
        samples = [sample(latency_s), sample(latency_s, error)]
        figures = summarise(samples) | summarise_listening(samples)
        name = "at once" if mode == "closed" else "per s"
        points.append({"label": f"{load} {name}", "mode": mode, "load": load, **figures})
    return {
        "format": FORMAT,
        "target": {"what": "a server"},
        "work": {"kind": "speech"},
        "machine": describe_machine(),
        "points": points,
    }


def test_a_table_has_columns_as_wide_as_their_widest_cell() -> None:
    lines = format_table(["", "figure"], [["long name", 1.0], ["b", "x"]]).splitlines()
    assert lines == ["           figure", "---------  ------", "long name  1.000", "b          x"]


def test_a_table_says_failed_where_failures_reach_a_percentile() -> None:
    text = format_points(result(1.0, error="HTTP 503 overloaded"))
    assert "1/2" in text
    assert "failed" in text
    assert text.endswith("1 at once: 1 x HTTP 503 overloaded")
    assert "failed" not in format_points(result(1.0))


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_result(path, result(1.0, 2.0))
    assert read_result(path) == result(1.0, 2.0) | {"machine": read_result(path)["machine"]}
    assert "/" not in path.read_text("utf-8").replace(describe_machine()["cpu"], "")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}'])
def test_what_is_no_result_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StartError, match="is no result of qwen3-audio bench"):
        read_result(tmp_path / "a.json")


def test_a_ratio_above_1_says_that_the_second_is_better() -> None:
    rows = compare_results(result(2.0), result(1.0))
    ratios = {row["measure"]: row["ratio"] for row in rows}
    assert ratios["latency_ms.p50"] == 2.0
    assert ratios["rtf.p95"] == 2.0
    assert ratios["audio_s_per_s"] == 2.0
    assert ratios["num_failed"] == 1.0
    assert "latency_ms.p50" in format_comparison(rows)
    assert all(row["ratio"] <= 1 for row in compare_results(result(1.0), result(2.0)))


def test_new_errors_show_in_a_comparison() -> None:
    rows = compare_results(result(1.0), result(1.0, error="HTTP 500"))
    assert next(row for row in rows if row["measure"] == "num_failed")["ratio"] == 0
    assert not any(row["measure"] == "latency_ms.p95" for row in rows)


def test_results_of_different_work_or_load_are_not_compared() -> None:
    other = result(1.0) | {"work": {"kind": "transcription"}}
    with pytest.raises(StartError, match="One result is of speech, the other of transcription"):
        compare_results(result(1.0), other)
    with pytest.raises(StartError, match="no point of load in common"):
        compare_results(result(1.0), result(1.0, mode="open"))


def test_what_makes_two_results_hard_to_compare_is_said() -> None:
    one, two = result(1.0), result(1.0)
    two["machine"] = one["machine"] | {"cpu": "another", "date": "2000-01-01"}
    assert describe_differences(one, one) == []
    assert describe_differences(one, two) == [
        f"machine differs in cpu: {one['machine']['cpu']} and another"
    ]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_latency_against_load_becomes_a_picture(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"plot.{suffix}"
    check_plot(path)
    both = result(1.0, 2.0, 4.0)
    both["points"] += result(1.0, 3.0, mode="open")["points"]
    write_plot(path, [("a", both), ("b", result(1.0, 1.5, error="HTTP 500"))])
    assert path.read_bytes().startswith(start)


def test_a_picture_of_another_kind_is_refused_before_anything_runs() -> None:
    with pytest.raises(StartError, match=r"must end in \.png or \.svg"):
        check_plot(Path("plot.jpg"))


def test_packages_that_are_not_there_are_named_with_how_to_get_them() -> None:
    check_packages({"json": "json"}, "This")
    with pytest.raises(StartError) as refused:
        check_packages({"json": "json", "nothing_like_it": "nothing-like-it"}, "--plot")
    assert str(refused.value) == (
        '--plot needs nothing-like-it, which is not here: pip install "qwen3-audio[bench]"'
    )
