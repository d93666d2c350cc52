"""The kills as a part of the soak: on both databases, with bounds."""

import sys
from pathlib import Path
from typing import Any

from benchmarks.kill.drill import Drill, Point, drill
from benchmarks.kill.server import BEFORE_ROW
from benchmarks.live import ROOT
from benchmarks.report import counted

NUM_KILLS = 50
MIN_IN_FLIGHT, MIN_INSIDE_WRITE = 1 / 3, 1 / 10  # of all kills

Result = dict[str, Any]


def measure_kills(home: Path) -> Result:
    """By database; PostgreSQL is a private server, if its programs are installed."""
    sys.path.insert(0, str(ROOT / "tests"))  # which know how to start one
    from postgres_cluster import find_programs, running_cluster

    results = {"sqlite": _drill("SQLite", f"sqlite:///{home}/kill.db")}
    programs = find_programs()
    if programs is not None:
        with running_cluster(programs) as cluster:
            results["postgres"] = _drill("PostgreSQL", cluster.url(cluster.create()))
    return results


def _drill(name: str, url: str) -> Result:
    def shown(points: list[Point]) -> Any:
        return counted(points, f"kills on {name}", len(points))

    return drill(url, num_kills=NUM_KILLS, seed=NUM_KILLS, shown=shown).as_result()


def judge_kills(what: str, result: Result) -> dict[str, bool]:
    """The bounds of one database."""
    found = Drill(**result)
    inside, least = found.inside_write[BEFORE_ROW], found.num_kills * MIN_INSIDE_WRITE
    sounds, answers = found.num_compared, sum(found.answers.values())
    return {
        f"kill: {what}: {found.num_in_flight} of {found.num_kills} kills cut off a request": (
            found.num_in_flight >= found.num_kills * MIN_IN_FLIGHT
        ),
        f"kill: {what}: {inside} between file and row >= {least:g}": inside >= least,
        f"kill: {what}: {answers} answers, {sounds} sounds compared, faults {found.faults}": (
            not found.faults and sounds > 0
        ),
    }
