"""Segments → SubRip and WebVTT text."""

from collections.abc import Iterable

from qwen3_audio.types import Segment


def format_srt(segments: Iterable[Segment]) -> str:
    cues = [
        f"{number}\n{_stamp(s.start_s, ',')} --> {_stamp(s.end_s, ',')}\n{_one_line(s.text)}\n"
        for number, s in enumerate(segments, start=1)
    ]
    return "\n".join(cues)


def format_vtt(segments: Iterable[Segment]) -> str:
    cues = [
        f"{_stamp(s.start_s, '.')} --> {_stamp(s.end_s, '.')}\n{_one_line(s.text)}\n"
        for s in segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _stamp(time_s: float, point: str) -> str:
    minutes, ms = divmod(round(time_s * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{point}{ms % 1000:03}"


def _one_line(text: str) -> str:
    """A cue ends at an empty line, and an arrow in it would begin another."""
    return " ".join(text.split()).replace("-->", "->")
