"""The figures as a page for people: bounds first, then what has none."""

from collections.abc import Iterable, Iterator, Sequence

from training.measure.bounds import judge, percent
from training.measure.plan import FULL_SENTENCES, Json

_HEAD = """\
# The pocket models, measured

By `python -m training.measure` (training/README.md). Every sentence is one that neither model was
trained on; WER is the word error rate without case and punctuation.
"""


def format_report(kept: Json) -> str:
    parts = kept["parts"]
    figures = {name: part["figures"] for name, part in parts.items()}
    pieces = [_HEAD, _bounds(figures), *_warnings(kept)]
    if "round_trip" in figures:
        pieces += ["## Speakers", _speakers(figures["round_trip"], figures.get("judged"))]
    if "clones" in figures:
        pieces += ["## Clones", _clones(figures["clones"])]
    if "descriptions" in figures:
        pieces += ["## Descriptions", _descriptions(figures["descriptions"]["pairs"])]
    if "listening" in figures:
        pieces += ["## Recognition", _conditions(figures["listening"])]
    if files := figures.get("pictures", {}).get("files"):
        pieces += ["## Pictures", "\n".join(f"![{_title(name)}](pocket/{name})" for name in files)]
    pieces += ["## Where and when", _machines(parts)]
    return "\n\n".join(piece.strip() for piece in pieces) + "\n"


def _bounds(figures: Json) -> str:
    rows = [[line.what, line.bound, line.measured, line.verdict] for line in judge(figures)]
    return table(("must show", "bound", "measured", ""), rows)


def _warnings(kept: Json) -> Iterator[str]:
    for name, failure in kept["failed"].items():
        yield f"**{name} failed** on {failure['date']}: {failure['why']}"
    parts = kept["parts"].values()
    if any(part["sentences"] < FULL_SENTENCES or part["share"] < 1 for part in parts):
        yield "**A trial**: fewer sentences or clips than the bounds are meant for, see below."
    if len({str(part["models"]) for part in parts}) > 1:
        yield "**Not all parts were measured on the same weights**, see below."


def _speakers(part: Json, judged_part: Json | None) -> str:
    judged = judged_part["speakers"] if judged_part else {}
    rows = []
    for name, row in part["speakers"].items():
        wers = [percent(row[way]["wer"]) for way in ("greedy", "sampled", "mp3")]
        ends = [f"{row[way]['ended']} of {row[way]['texts']}" for way in ("greedy", "sampled")]
        rows.append([name, *wers, percent(judged[name]["wer"]) if judged else "-", *ends])
    head = ("speaker", "WER greedy", "sampled", "mp3", "other recogniser", "ended", "sampled")
    return table(head, rows)


def _clones(part: Json) -> str:
    rows = []
    for way, some in part.items():
        for name, row in some["references"].items():
            pitch = f"{row['reference_hz']} → {row['pitch_hz']}"
            bright = f"{row['reference_brightness_hz']} → {row['brightness_hz']}"
            rows.append([name, way.replace("_", " "), percent(row["wer"]), pitch, bright])
    follows = " ".join(
        f"{way.replace('_', ' ').capitalize()} the clones' pitch goes with the references' at"
        f" {some['pitch_follows']}, their brightness at {some['brightness_follows']}"
        " (correlation)."
        for way, some in part.items()
    )
    head = ("reference", "", "WER", "pitch, Hz", "brightness, Hz")
    return f"{table(head, rows)}\n\n{follows}"


def _descriptions(rows: Iterable[Json]) -> str:
    units = {"pitch_hz": "Hz", "sound_s": "s"}
    shown = []
    for row in rows:
        values = (f"{one[row['figure']]} {units[row['figure']]}" for one in row["of"])
        shown.append([row["less"], row["more"], *values, row["ratio"]])
    return table(("should have less", "should have more", "less", "more", "ratio"), shown)


def _conditions(part: Json) -> str:
    rows = [
        [name.replace("_", " "), row["clips"], percent(row["wer"]), percent(row["exact"])]
        for name, row in part["speech"].items()
    ]
    return table(("condition", "clips", "WER", "without an error"), rows)


def _machines(parts: Json) -> str:
    rows = []
    for name, part in parts.items():
        machine, sizes = part["machine"], f"{part['sentences']} sentences, share {part['share']}"
        load = f"{machine['load_average_before']} → {machine['load_average']}"
        where = f"{machine['cpu']}, {machine['cores']} cores"
        models = ", ".join(f"{kind} {digest}" for kind, digest in part["models"].items())
        software = f"Python {machine['python']}, torch {machine['torch']}"
        took = f"{part['took_s']:.0f} s"
        rows.append([name, machine["date"], where, software, load, took, sizes, models])
    head = ("part", "date", "machine", "software", "load average", "took", "size", "weights")
    return table(head, rows)


def _title(name: str) -> str:
    return name.removesuffix(".png").replace("-", ", ")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [list(head), ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
