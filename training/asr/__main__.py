"""`python -m training.asr`: data, training, evaluation and the finished Pocket-ASR."""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.errors import StartError
from training.asr.checkpoint import learn_vocabulary, write_settings
from training.asr.clips import Clip
from training.asr.evaluate import evaluate, missed_bounds
from training.asr.extra import read_extra
from training.asr.hearing import quick_look
from training.asr.train import Training
from training.asr.trials import speech_trials
from training.run import (
    draw_curves,
    plain_failures,
    run_stage,
    say,
    use_few_threads,
    write_text,
)
from training.world.espeak import Espeak, EspeakMissing

_CURVES = [["text", "phoneme", "word"], ["wer"]]
_NUM_LOOKED_AT = 0.25  # share of the trials that an intermediate checkpoint hears


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.asr", description=__doc__)
    add = parser.add_argument
    add("--hours", type=float, default=2.5, help="of active training; default 2.5")
    add("--work", type=Path, default=Path("training/work/asr"), help="clips and saved states")
    add("--out", type=Path, help="where the finished checkpoint goes; default: inside --work")
    add("--evaluate-only", action="store_true", help="take the figures of what is in --out")
    add("--extra", type=Path, help="folder of recordings of another voice, with manifest.json")
    add("--tune-hours", type=float, default=0.0, help="fine-tune trained weights that long")
    add("--evaluation-share", type=float, default=1.0, help="less than 1: fewer trials")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    use_few_threads()
    with plain_failures(EspeakMissing, StartError, FileNotFoundError):
        espeak = Espeak()
        out = options.out or options.work / "finished"
        if not options.evaluate_only:
            checkpoint = train(options, espeak)
            copy_checkpoint(checkpoint, out)
        figures = evaluate(out, espeak, share=options.evaluation_share)
        write_text(options.work / "figures.json", json.dumps(figures, indent=1))
        say(f"figures: {options.work / 'figures.json'}")
        for sentence in missed_bounds(figures):
            say(f"missed: {sentence}")


def train(options: argparse.Namespace, espeak: Espeak) -> Path:
    """Run or go on with what the options ask for; returns the folder of the checkpoint."""
    work: Path = options.work
    checkpoint = work / "checkpoint"
    run_stage(work, "vocabulary", lambda: write_settings(checkpoint, learn_vocabulary()))
    extra: list[Clip] = read_extra(options.extra) if options.extra else []
    is_tuning = options.tune_hours > 0
    training = Training(
        work,
        checkpoint,
        espeak,
        budget_s=3600 * (options.tune_hours if is_tuning else options.hours),
        extra=extra,
        tuned_from=work / "training.pt" if is_tuning else None,
    )
    trials = speech_trials(espeak, _NUM_LOOKED_AT)
    looked_at = trials["trained_voices"][:100]
    tokenizer = TextTokenizer(checkpoint)
    progress = training.run(lambda learner: quick_look(learner, tokenizer, looked_at))
    picture = progress.path.with_suffix(".png")
    draw_curves(progress.rows(), picture, x="minutes", columns=_CURVES)
    return checkpoint


def copy_checkpoint(checkpoint: Path, out: Path) -> None:
    """The finished files, and nothing that a run leaves beside them."""
    out.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        if path.suffix in (".json", ".txt", ".safetensors"):
            shutil.copyfile(path, out / path.name)


if __name__ == "__main__":
    main()
