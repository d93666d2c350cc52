"""Do trained checkpoints mean the same here? Recordings to text, and text to sound to text.

FOLDER holds asr/checkpoint, asr/heldout/manifest.json with its recordings, and tts/checkpoint.
Everything goes over HTTP to a real server. Exit code 1 if a bound is missed.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer

from benchmarks.live import ROOT, Server, run_server
from benchmarks.report import check_all, counted, format_table, say, write_result

DTYPES = ("float32", "bfloat16", "int8")
EXACT_DTYPES = ("float32", "bfloat16")  # these must give the texts of the manifest, word for word
MIN_SAME_SHARE = 0.95  # int8: of the texts that float32 gives
MAX_WORSE_WER = 0.05  # int8: than float32
NUM_AT_ONCE = 8
MAX_WER = 0.20
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = ("ryan", "vivian")
NUM_SENTENCES = 12


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and what is said in it."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is to be spoken, and by whom."""

    speaker: str
    text: str


def read_clips(folder: Path) -> list[Clip]:
    rows = json.loads((folder / "heldout" / "manifest.json").read_text(encoding="utf-8"))
    return [Clip(folder / row["file"], row["text"]) for row in rows]


def draw_sentences() -> list[Sentence]:
    """Always the same twelve: three to six digits each, the first half for the first speaker."""
    draw = random.Random(0)
    texts = [
        " ".join(draw.choice(DIGITS) for _ in range(draw.randint(3, 6))) + "."
        for _ in range(NUM_SENTENCES)
    ]
    per_speaker = NUM_SENTENCES // len(SPEAKERS)
    return [Sentence(SPEAKERS[i // per_speaker], text) for i, text in enumerate(texts)]


def plain_words(text: str) -> str:
    """Lower case, no punctuation, single spaces: what word error rates are taken of."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Over all sentences together."""
    return jiwer.wer([plain_words(text) for text in said], [plain_words(text) for text in heard])


def hear(server: Server, data: bytes, name: str = "clip.wav") -> str:
    answer = server.transcribe(data, name)
    answer.raise_for_status()
    text: str = answer.json()["text"]
    return text


def hear_clips(server: Server, clips: Sequence[Clip], at_once: int) -> dict[str, Any]:
    """How many come back word for word, case and punctuation too; those that do not; and all."""
    with ThreadPoolExecutor(at_once) as threads:
        answers = threads.map(
            lambda clip: hear(server, clip.path.read_bytes(), clip.path.name), clips
        )
        what = "clips eight at once" if at_once > 1 else "clips alone"
        heard = list(counted(answers, what, len(clips)))
    wrong = [
        {"clip": clip.path.name, "said": clip.text, "heard": text}
        for clip, text in zip(clips, heard, strict=True)
        if text != clip.text
    ]
    return {"exact": len(clips) - len(wrong), "of": len(clips), "wrong": wrong, "heard": heard}


def speak_digits(server: Server, sentences: Sequence[Sentence]) -> list[bytes]:
    """Greedy; each sentence as a WAV file."""

    def speak(sentence: Sentence) -> bytes:
        answer = server.speak(sentence.text, sentence.speaker, language="English", temperature=0)
        answer.raise_for_status()
        return answer.content

    return [speak(one) for one in counted(sentences, "digits spoken", len(sentences))]


def hear_digits(
    server: Server, sentences: Sequence[Sentence], sounds: Sequence[bytes]
) -> dict[str, Any]:
    heard = [hear(server, sound) for sound in sounds]
    rows = [
        {"speaker": one.speaker, "said": one.text, "heard": text}
        for one, text in zip(sentences, heard, strict=True)
    ]
    return {"wer": round(word_error_rate([one.text for one in sentences], heard), 4), "of": rows}


def speak_officially(
    python: Path, checkpoint: Path, sentences: Sequence[Sentence], dtype: str
) -> list[bytes]:
    """The same sentences by the official package, in an environment of its own."""
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-bench-") as folder:
        order = {
            "checkpoint": str(checkpoint),
            "dtype": dtype,
            "folder": folder,
            "sentences": [asdict(sentence) for sentence in sentences],
        }
        say(f"The official package speaks in {dtype}")
        subprocess.run(
            [python, "-m", "benchmarks.peers.official_speak"],
            input=json.dumps(order),
            text=True,
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return [Path(folder, f"{i}.wav").read_bytes() for i in range(len(sentences))]


def measure(folder: Path, dtype: str, official: Path | None) -> dict[str, Any]:
    clips, sentences = read_clips(folder / "asr"), draw_sentences()
    checkpoints = [folder / "asr" / "checkpoint", folder / "tts" / "checkpoint"]
    theirs = None
    if official is not None and dtype in EXACT_DTYPES:  # it has no int8
        theirs = speak_officially(official, checkpoints[1], sentences, dtype)
    say(f"Starting a server in {dtype}")
    with run_server(checkpoints, QWEN_TTS_DTYPE=dtype) as server:
        result = {
            "clips_alone": hear_clips(server, clips, 1),
            "clips_at_once": hear_clips(server, clips, NUM_AT_ONCE),
            "digits": hear_digits(server, sentences, speak_digits(server, sentences)),
        }
        if theirs is not None:
            result["digits_official"] = hear_digits(server, sentences, theirs)
    return result


def judge(results: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Every bound by its name."""
    checks = {}
    for dtype, result in results.items():
        for key in ("clips_alone", "clips_at_once"):
            clips = result[key]
            if dtype in EXACT_DTYPES:
                checks[f"{dtype}: {key} {clips['exact']} of {clips['of']} word for word"] = (
                    clips["exact"] == clips["of"]
                )
            else:
                num_same = count_same(clips["heard"], results["float32"][key]["heard"])
                checks[f"{dtype}: {key} {num_same} of {clips['of']} as in float32, >= 95 %"] = (
                    num_same >= MIN_SAME_SHARE * clips["of"]
                )
        wer = result["digits"]["wer"]
        most = MAX_WER
        if dtype not in EXACT_DTYPES:
            most = results["float32"]["digits"]["wer"] + MAX_WORSE_WER
        checks[f"{dtype}: WER of spoken digits {wer:.3f} <= {most:.3f}"] = wer <= most
    return checks


def count_same(heard: Sequence[str], reference: Sequence[str]) -> int:
    return sum(one == other for one, other in zip(heard, reference, strict=True))


def describe(results: dict[str, dict[str, Any]]) -> str:
    """The figures side by side, then every clip and sentence that came back different."""
    rows = [
        [
            dtype,
            *(
                f"{result[key]['exact']}/{result[key]['of']}"
                for key in ("clips_alone", "clips_at_once")
            ),
            result["digits"]["wer"],
            result["digits_official"]["wer"] if "digits_official" in result else "not run",
        ]
        for dtype, result in results.items()
    ]
    head = ["precision", "clips alone", "eight at once", "digits WER", "official WER"]
    lines = [format_table(head, rows), ""]
    for dtype, result in results.items():
        for wrong in result["clips_alone"]["wrong"] + result["clips_at_once"]["wrong"]:
            lines.append(f"{dtype} {wrong['clip']}: {wrong['said']} -> {wrong['heard']}")
        for row in result["digits"]["of"]:
            if plain_words(row["said"]) != plain_words(row["heard"]):
                lines.append(f"{dtype} {row['speaker']}: {row['said']} -> {row['heard']}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/check-pocket", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--dtype",
        action="append",
        choices=DTYPES,
        help="default: all; int8 is judged beside float32, which then runs too",
    )
    parser.add_argument(
        "--official",
        type=Path,
        metavar="PYTHON",
        help="a Python with qwen-tts; it speaks the same sentences for comparison",
    )
    given = parser.parse_args(arguments)
    wanted = given.dtype or DTYPES
    results = {
        dtype: measure(given.folder.resolve(), dtype, given.official)
        for dtype in DTYPES
        if dtype in wanted or (dtype == "float32" and "int8" in wanted)
    }
    print(describe(results))
    write_result("pocket", results)
    return check_all(judge(results))


if __name__ == "__main__":
    sys.exit(main())
