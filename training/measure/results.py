"""The figures of all parts in one file; a part that is not measured again stays as it was."""

import json
from importlib.metadata import version
from pathlib import Path

from qwen3_audio import __version__
from qwen3_audio.bench.results import describe_machine
from qwen3_audio.errors import StartError
from training.measure.bounds import judge
from training.measure.plan import Json, Plan
from training.measure.table import format_report
from training.run import write_text

NAME = "pocket-models"


class Results:
    """pocket-models.json and pocket-models.md in a folder, rewritten after every part."""

    def __init__(self, plan: Plan, models: Json) -> None:
        self.plan, self.models = plan, models
        self.path = plan.out / f"{NAME}.json"
        self.kept = _read(self.path)

    def keep(self, part: str, figures: Json, *, took_s: float, load_average: float) -> None:
        """The figures of a part that was measured now, with where and how."""
        self.kept["failed"].pop(part, None)
        self.kept["parts"][part] = {
            "machine": describe_machine() | {"load_average_before": load_average},
            "versions": {"qwen3-audio": __version__, "numpy": version("numpy")},
            "models": self.models,
            "sentences": self.plan.num_sentences,
            "share": self.plan.share,
            "took_s": round(took_s, 1),
            "figures": figures,
        }
        self._write()

    def fail(self, part: str, sentence: str) -> None:
        """It could not be measured; older figures stay."""
        self.kept["failed"][part] = {"date": describe_machine()["date"], "why": sentence}
        self._write()

    @property
    def figures(self) -> Json:
        return {name: part["figures"] for name, part in self.kept["parts"].items()}

    def _write(self) -> None:
        self.kept["lines"] = [
            {"what": line.what, "bound": line.bound, "measured": line.measured}
            | {"kept": line.is_kept}
            for line in judge(self.figures)
        ]
        write_text(self.path, json.dumps(self.kept, indent=1, ensure_ascii=False) + "\n")
        write_text(self.path.with_suffix(".md"), format_report(self.kept))


def _read(path: Path) -> Json:
    empty: Json = {"parts": {}, "failed": {}}
    if not path.exists():
        return empty
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        kept = None
    if not isinstance(kept, dict) or not empty.keys() <= kept.keys():
        raise StartError(f"{path} is no result of python -m training.measure; move it away")
    return kept
