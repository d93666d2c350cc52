"""`python -m training.measure`: everything that the pocket models must show, in one table.

Each part stands alone: one that fails is reported and the others go on, and what is not measured
again stays in the result. Exit code 1 if a part failed or a bound was missed.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from qwen3_audio.bench.results import load_average
from qwen3_audio.errors import StartError
from training.measure.bounds import judge
from training.measure.clones import measure_clones
from training.measure.described import measure_descriptions
from training.measure.listening import measure_listening
from training.measure.official import measure_official_listening, measure_official_speech
from training.measure.pictures import draw_pictures
from training.measure.plan import FULL_SENTENCES, Json, Plan, find_models, fingerprints
from training.measure.results import Results
from training.measure.round_trip import measure_judged, measure_round_trip
from training.measure.speed import measure_speed
from training.run import plain_failures, say, use_few_threads
from training.world.espeak import EspeakMissing

PARTS: dict[str, Callable[[Plan], Json | None]] = {  # None: left out, for want of an option
    "official_speech": measure_official_speech,
    "official_listening": measure_official_listening,
    "listening": measure_listening,
    "round_trip": measure_round_trip,
    "judged": measure_judged,
    "clones": measure_clones,
    "descriptions": measure_descriptions,
    "speed": measure_speed,
    "pictures": draw_pictures,
}
_OUT = Path(__file__).parents[2] / "benchmarks" / "results"
_PLAIN = (StartError, EspeakMissing, FileNotFoundError)  # their sentence says everything


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="holds pocket-asr and the three pocket-tts-...; default: what serve --demo uses",
    )
    add("--out", type=Path, default=_OUT, metavar="FOLDER", help="default: benchmarks/results")
    add("--parts", default=",".join(PARTS), metavar="A,B", help=f"of {', '.join(PARTS)}")
    add("--sentences", type=_positive, default=FULL_SENTENCES, metavar="N", help="default 300")
    add("--share", type=float, default=1.0, help="of the trials of recognition; default all")
    add("--judge", type=Path, metavar="FOLDER", help="another Qwen3-ASR checkpoint that listens")
    add("--judge-words", type=Path, metavar="FILE", help="the words that the judge knows")
    add("--official-tts", type=Path, metavar="PYTHON", help="a Python with qwen-tts")
    add("--official-asr", type=Path, metavar="PYTHON", help="a Python with qwen-asr")
    add("--curves", type=Path, action="extend", nargs="+", default=[], metavar="FOLDER",
        help="work folders of the training, for pictures of its curves")  # fmt: skip
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    given = parser.parse_args(arguments)
    parts = given.parts.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"--parts knows {', '.join(PARTS)}, not {', '.join(unknown)}")
    use_few_threads()
    with plain_failures(StartError):
        plan = Plan(
            models=find_models(given.models),
            out=given.out,
            is_demo=given.models is None,
            num_sentences=given.sentences,
            share=given.share,
            judge=given.judge,
            judge_words=given.judge_words,
            official_speech=given.official_tts,
            official_listening=given.official_asr,
            curves=tuple(given.curves),
        )
        results = Results(plan, fingerprints(plan.models))
        all_done = [measure_part(name, plan, results) for name in parts]
    return report(results, is_whole=all(all_done))


def measure_part(name: str, plan: Plan, results: Results) -> bool:
    """Measure and keep one part; whatever happens in it is its own affair."""
    say(f"{name}: begins")
    load, began_s = load_average(), time.monotonic()
    try:
        figures = PARTS[name](plan)
    except _PLAIN as error:
        return _failed(name, results, str(error))
    except Exception as error:  # the parts after it are worth as much without it
        traceback.print_exc()
        return _failed(name, results, f"{type(error).__name__}: {error}")
    if figures is None:
        return True
    took_s = time.monotonic() - began_s
    results.keep(name, figures, took_s=took_s, load_average=load)
    say(f"{name}: done in {took_s:.0f} s")
    return True


def _failed(name: str, results: Results, sentence: str) -> bool:
    say(f"{name}: FAILED: {sentence}")
    results.fail(name, sentence)
    return False


def report(results: Results, *, is_whole: bool) -> int:
    lines = judge(results.figures)
    for line in lines:
        say(f"{line.verdict:6}  {line.what}: {line.measured} ({line.bound})")
    say(f"{results.path} and {results.path.with_suffix('.md').name}")
    return 0 if is_whole and all(line.is_kept is not False for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
