"""Is this GPU right, and how fast is it? Ends with a table; parts that fail are reported.

Parts: machine, speech-SIZE, listening-SIZE (the tables), tiny (all kinds against the CPU),
forced-SIZE (the real sizes against the CPU, with the codes given), kernels (each against plain
torch, real sizes), official-SIZE. After each part the results so far are written.
Exit code 1 if a part failed, something was wrong, or a bound was missed.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu_check import result
from benchmarks.gpu_check.part import Part
from benchmarks.gpu_check.schedule import (
    MORE_PARTS,
    PARTS,
    ROOT,
    TINY_PARTS,
    Results,
    run_all,
    run_part,
)

RESULTS = ROOT / "benchmarks" / "results"
MINUTES = 8.7


def main(arguments: Sequence[str] | None = None) -> int:
    given = build_parser().parse_args(arguments)
    usual, more = (TINY_PARTS, {}) if given.device == "cpu" else (PARTS, MORE_PARTS)
    parts = usual | more
    if given.child:
        deadline_s = time.monotonic() + given.seconds
        part = Part(given.child, given.device, given.home, given.report, deadline_s, given.quick)
        return run_part(part, parts[given.child])
    end_s = time.monotonic() + 60 * given.minutes
    names = given.parts.split(",") if given.parts else list(usual)
    unknown = [name for name in names if name not in parts]
    if unknown:
        print(f"There is no part {', '.join(unknown)}; there are {', '.join(parts)}")
        return 2
    from benchmarks.gpu_check.checkpoints import choose_home

    home = given.home or choose_home()
    for folder in (home, given.out):
        folder.mkdir(parents=True, exist_ok=True)
    options = ["--device", given.device, "--home", str(home)]
    options += ["--quick"] if given.quick else []
    commit, card = given.commit or find_commit(), find_card(given.device)
    about = {"date": datetime.now(UTC).date().isoformat(), "commit": commit}

    def keep(results: Results) -> Path:
        """From now on safe, whatever ends the parts to come."""
        found = card or result.figure(results, "machine", "machine", "card") or "unknown card"
        return result.write(given.out, found, results, about)

    try:
        results = run_all(names, parts, end_s=end_s, options=options, reports=given.out, keep=keep)
    finally:
        if given.home is None:
            shutil.rmtree(home, ignore_errors=True)
    path = keep(results)
    print(path.with_suffix(".md").read_text(encoding="utf-8"))
    print(f"Written: {path} and {path.with_suffix('.md').name}")
    return 0 if all(result.judge(results).values()) else 1  # of what was measured now


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu-check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--parts", metavar="NAME,NAME", help=f"default: all but {', '.join(MORE_PARTS)}"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything; no bounds")
    parser.add_argument("--device", default="cuda:0", help="cpu tries the tool on tiny models")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default {MINUTES}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--commit", help="what is checked, where git can't say it")
    parser.add_argument("--home", type=Path, help="keep checkpoints here (default: not kept)")
    for name, kind in (("child", str), ("seconds", float), ("report", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return parser


def find_card(device: str) -> str:
    """Without CUDA in this process, which has to go on whatever happens to a part."""
    if device == "cpu":
        return "cpu"
    index = device.partition(":")[2] or "0"
    command = ["nvidia-smi", f"--id={index}", "--query-gpu=name", "--format=csv,noheader"]
    return read_line(command)


def find_commit() -> str:
    """Of the checkout; 'unknown' where there is no git."""
    return read_line(["git", "describe", "--always", "--dirty", "--abbrev=12"]) or "unknown"


def read_line(command: Sequence[str]) -> str:
    """What a program says; nothing if it is not there or fails."""
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
