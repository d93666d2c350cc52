"""`python -m training.tts`: data, four networks, three checkpoint folders, figures."""

import argparse
import signal
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from training.run import (
    choose_device,
    draw_curves,
    load_state,
    plain_failures,
    run_stage,
    say,
    use_few_threads,
)
from training.tts.assemble import NotTrained, assemble, load_talker
from training.tts.codec import make_codec_trainer
from training.tts.encoder import make_encoder_trainer
from training.tts.lexicon import Lexicon, build_lexicon, write_sound
from training.tts.recite import recite
from training.tts.speaker import make_speaker_trainer
from training.tts.talker_training import make_talker_trainer
from training.tts.trainer import Step, Trainer, is_stopping, stop_soon
from training.world.espeak import EspeakMissing
from training.world.words import all_words

NETWORKS = ("codec", "talker", "encoder", "speaker")
SHARES = {"codec": 0.43, "talker": 0.42, "encoder": 0.10, "speaker": 0.05}  # of the whole budget
_WORKERS = (("codec", "encoder"), ("talker", "speaker"))
_AFTER = {"encoder": ("codec", 0.3), "speaker": ("talker", 0.6)}  # worth nothing earlier
STAGES = ("data", *NETWORKS, "train", "recite", "assemble", "evaluate")
_SLICE_S = 240.0
_CURVES = {
    "codec": [["spectral"], ["plain", "high"]],
    "talker": [["first", "others"], ["first_wrong", "others_wrong"]],
    "encoder": [["semantic", "acoustic"]],
    "speaker": [["loss"]],
}


def make_data(work: Path) -> None:
    """Say every unit once and keep codes and sound."""

    def stage() -> dict[str, float | int]:
        lexicon = build_lexicon(all_words())
        lexicon.save(work / "lexicon")
        loudest = write_sound(lexicon, work / "lexicon" / "sound.npy")
        return {"units": len(lexicon.names), "frames": len(lexicon.codes), "loudest": loudest}

    run_stage(work, "data", stage)


def make_trainer(work: Path, lexicon: Lexicon, network: str, hours: float) -> tuple[Trainer, Step]:
    budget_s = hours * 3600 * SHARES[network]
    if network == "speaker":
        return make_speaker_trainer(work, lexicon, load_talker(work, lexicon), budget_s)
    makers = {
        "codec": make_codec_trainer,
        "talker": make_talker_trainer,
        "encoder": make_encoder_trainer,
    }
    return makers[network](work, lexicon, budget_s)


def train(work: Path, networks: Sequence[str], hours: float, *, slice_s: float = _SLICE_S) -> None:
    """Slices of the networks in turn, always of the one that is furthest behind."""
    use_few_threads()
    signal.signal(signal.SIGTERM, lambda *_: stop_soon())
    lexicon = Lexicon.load(work / "lexicon")
    shares = {name: _share_used(work, name, hours) for name in networks}
    while waiting := [name for name in networks if shares[name] < 1.0]:
        ready = [name for name in waiting if _is_ready(name, shares)] or waiting
        name = min(ready, key=lambda name: shares[name])
        trainer, step = make_trainer(work, lexicon, name, hours)
        if trainer.share < 1.0:
            say(f"{name}: {100 * trainer.share:.0f} % done, goes on")
            trainer.run(step, slice_s=slice_s)
        if is_stopping():
            sys.exit("Stopped and saved. Start again to go on from there")
        shares[name] = trainer.share
        draw_curves(
            trainer.progress.rows(), work / f"{name}.png", x="active_s", columns=_CURVES[name]
        )


def _share_used(work: Path, network: str, hours: float) -> float:
    state = load_state(work / f"{network}.pt")
    used_s = 0.0 if state is None else float(state["used_s"])
    return used_s / (hours * 3600 * SHARES[network])


def _is_ready(name: str, shares: dict[str, float]) -> bool:
    first, least = _AFTER.get(name, ("", 0.0))
    return first not in shares or shares[first] >= least


def train_all(work: Path, hours: float, num_processes: int) -> None:
    """All networks in this process, or in two side by side."""
    if num_processes == 1:
        train(work, NETWORKS, hours)
        return
    context = get_context("spawn")
    workers = [context.Process(target=train, args=(work, names, hours)) for names in _WORKERS]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit("A worker failed; its message stands above. Start again to go on from there")


def run(given: argparse.Namespace) -> None:
    work, out = given.work, given.out
    if given.stage in ("all", "data"):
        make_data(work)
    if given.stage in ("all", "train"):
        train_all(work, given.hours, given.processes)
    elif given.stage in NETWORKS:
        train(work, [given.stage], given.hours)
    if given.stage == "recite":
        recite(work, out, given.sentences)
    if given.stage in ("all", "assemble"):
        assemble(work, out)
    if given.stage in ("all", "evaluate"):
        from training.tts.evaluate import draw_sentences, evaluate

        known = frozenset(given.words.read_text("utf-8").split()) if given.words else None
        texts = draw_sentences(given.sentences, words=known)
        evaluate(out, work, judges=given.judge, texts=texts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.tts", description=__doc__)
    parser.add_argument("--hours", type=float, default=3.0, help="processor hours of all networks")
    parser.add_argument("--work", type=Path, default=Path("training/work/tts"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("training/work/out"), metavar="FOLDER")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2)
    parser.add_argument(
        "--judge",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="a Qwen3-ASR checkpoint that listens; may be given several times",
    )
    parser.add_argument(
        "--words", type=Path, metavar="FILE", help="evaluate with sentences of these words alone"
    )
    parser.add_argument(
        "--sentences", type=int, default=20, help="for each speaker and judge, or to recite"
    )
    given = parser.parse_args(arguments)
    use_few_threads()
    say(f"training on {choose_device()}")
    with plain_failures(EspeakMissing, NotTrained):
        run(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
