"""The `qwen3-audio` command: its arguments, its exit codes, and nothing that takes time to import.

Exit codes: 0 done, 1 the work failed, 2 wrong use or configuration.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from qwen3_audio import __version__
from qwen3_audio.errors import BadRequest, NotLoaded, SpeechError, StartError

COMMANDS = {
    "serve": "run the HTTP server",
    "say": "speak a text into a sound file",
    "transcribe": "write down what recordings say",
    "download": "fetch checkpoints into MODELS_DIR",
    "doctor": "say what would be loaded, where it would run and what is missing",
    "make-tiny": "write tiny random checkpoints, one of each kind, for tests",
    "bench": "how fast a server or the engine is, under which load",
    "admin": "users, invites, keys and limits, as the routes under /admin",
    "db": "bring the database to this version, check it, copy it",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    sys.exit(run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Run the command of its own module; every expected trouble becomes one sentence."""
    module = importlib.import_module(f"qwen3_audio.commands.{arguments.command.replace('-', '_')}")
    try:
        code: int = module.run(arguments)
    except (StartError, BadRequest, NotLoaded) as error:
        print(f"qwen3-audio: {error}", file=sys.stderr)
        return 2
    except SpeechError as error:
        print(f"qwen3-audio: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def build_parser() -> argparse.ArgumentParser:
    """All arguments of all commands."""
    parser = argparse.ArgumentParser(
        prog="qwen3-audio",
        description="Qwen3-TTS and Qwen3-ASR on your own machine, behind the OpenAI audio API.",
        epilog="Settings are environment variables: see docs/settings.md.",
    )
    parser.add_argument("--version", action="version", version=f"qwen3-audio {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {
        name: subparsers.add_parser(name, help=summary, description=summary)
        for name, summary in COMMANDS.items()
    }
    _add_serve(commands["serve"])
    _add_say(commands["say"])
    _add_transcribe(commands["transcribe"])
    commands["download"].add_argument(
        "ids", nargs="+", metavar="ID", help="such as Qwen/Qwen3-ASR-0.6B"
    )
    _add_models(commands["doctor"])
    make_tiny = commands["make-tiny"]
    make_tiny.add_argument("folder", type=Path, help="a new or empty folder")
    make_tiny.add_argument("--seed", type=int, default=0, help="other weights (default 0)")
    _add_bench(commands["bench"])
    _add_admin(commands["admin"])
    _add_db(commands["db"])
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-path",
        action="append",
        default=[],
        metavar="FOLDER_OR_ID",
        help="a checkpoint; may be given once for each kind",
    )
    parser.add_argument("--device", help="cpu, cuda:0, ... (QWEN_TTS_DEVICE)")
    parser.add_argument(
        "--require-gpu", action="store_true", help="never fall back to the CPU (REQUIRE_GPU)"
    )
    parser.add_argument("--dtype", help="bfloat16, float16, float32, int8, fp8 (QWEN_TTS_DTYPE)")
    parser.add_argument(
        "--demo",
        action="store_true",
        help="the pocket models that come with this program: simple English",
    )


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_models(parser)
    parser.add_argument("--fake", action="store_true", help="no model: tones and fixed words")
    parser.add_argument("--host", help="address to listen on (HOST, default 0.0.0.0)")
    parser.add_argument("--port", help="port to listen on (PORT, default 8000; 0: any free one)")


def _add_say(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="what to say; - reads it from standard input")
    parser.add_argument(
        "--out", type=Path, default=Path("speech.wav"), help="wav, mp3, flac, ... by its extension"
    )
    parser.add_argument("--voice", default="alloy", help="a speaker or an OpenAI voice name")
    parser.add_argument("--language", help="name or code (default: the model decides)")
    parser.add_argument("--instructions", help="how to say it; with VoiceDesign: whose voice")
    parser.add_argument("--reference", type=Path, help="a recording of the voice to clone")
    parser.add_argument("--reference-text", help="what is said in the recording")
    parser.add_argument("--seed", type=int, help="the same seed gives the same sound")
    parser.add_argument("--speed", type=float, default=1.0, help="0.25 to 4 (default 1)")
    _add_models(parser)


def _add_transcribe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a recording")
    parser.add_argument("--language", help="name or code (default: detected)")
    parser.add_argument("--prompt", help="names and words that may occur")
    parser.add_argument("--format", default="text", choices=("text", "json", "srt", "vtt"))
    _add_models(parser)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    target = parser.add_argument_group("what is measured")
    target.add_argument("--url", help="any server with the OpenAI audio API, which runs already")
    target.add_argument("--api-key", metavar="KEY", help="for --url")
    target.add_argument(
        "--random",
        choices=("tiny", "0.6b", "1.7b"),
        help="a random checkpoint made on the spot; lengths are forced",
    )
    target.add_argument(
        "--checkpoints", type=Path, metavar="FOLDER", help="keep random checkpoints for next time"
    )
    target.add_argument("--fake", action="store_true", help="no model: the web side alone")
    target.add_argument("--engine", action="store_true", help="the engine alone, without HTTP")
    target.add_argument("--threads", metavar="N", help="that compute (default: every core)")
    _add_models(parser)
    work = parser.add_argument_group("what is asked for")
    work.add_argument("--work", choices=("speech", "transcription"), default="speech")
    work.add_argument("--model", help="its name in requests")
    work.add_argument("--voice", default="alloy", help="default: alloy")
    work.add_argument("--response-format", choices=("pcm", "wav"), default="pcm")
    work.add_argument("--texts", type=Path, metavar="FILE", help="to speak, one a line")
    work.add_argument("--frames", metavar="N", help="of 80 ms that each answer must have")
    work.add_argument("--clip-seconds", metavar="S", help="of made-up recordings (default 10)")
    work.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help='recordings with texts, [{"file": ..., "text": ...}]: word error rates',
    )
    work.add_argument("--language", help="sent with every request")
    work.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more field of every request; null leaves one out",
    )
    _add_bench_load(parser)


def _add_bench_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("how much at once")
    load.add_argument("--concurrency", metavar="N,N,...", help="closed loops (default 1)")
    load.add_argument("--rate", metavar="N,N,...", help="open loops: requests a second, Poisson")
    load.add_argument("--requests", metavar="N", help="in each point (default: two turns of all)")
    load.add_argument("--duration", metavar="S", help="of each point instead (open: 30)")
    load.add_argument("--warm-up", default="2", metavar="N", help="requests before each point")
    load.add_argument("--seed", default="0", metavar="N", help="of the random arrivals")
    result = parser.add_argument_group("what is left behind")
    result.add_argument("--out", type=Path, metavar="FILE", help="the result as JSON")
    result.add_argument(
        "--plot", type=Path, metavar="FILE", help="latency against load as PNG or SVG"
    )
    topics = parser.add_subparsers(dest="topic", metavar="[compare A B]")
    compare = topics.add_parser("compare", help="two results side by side, as ratios")
    compare.add_argument("first", type=Path, metavar="A.json")
    compare.add_argument("second", type=Path, metavar="B.json")
    compare.add_argument("--plot", type=Path, metavar="FILE", help="both in one picture")


def _add_admin(parser: argparse.ArgumentParser) -> None:
    topics = parser.add_subparsers(dest="topic", required=True, metavar="TOPIC")
    users = _add_actions(
        topics.add_parser("users", help="who has access"),
        without_user={"add": "a new user", "list": "all users, oldest first"},
        with_user={
            "show": "one user",
            "change": "name and limits; what is not named stays",
            "disable": "refuse the user's keys and invites from now on",
            "enable": "accept them again",
            "delete": "remove the user and everything that is theirs",
            "usage": "what the user used",
        },
    )
    for name in ("add", "change"):
        users[name].add_argument("--name", help="to tell users apart")
        for limit in ("max-tokens-per-day", "max-requests-per-minute", "max-requests-at-once"):
            users[name].add_argument(f"--{limit}", metavar="N", help="a number, or unlimited")
    invites = _add_actions(
        topics.add_parser("invites", help="codes that users exchange for a key"),
        with_user={
            "add": "a new code",
            "list": "newest first, used and revoked ones too",
            "revoke": "refuse a code from now on",
        },
    )
    invites["add"].add_argument("--expires-hours", type=int, default=24, help="default 24")
    invites["revoke"].add_argument("invite", type=int, metavar="INVITE", help="its number")
    keys = _add_actions(
        topics.add_parser("keys", help="API keys; the keys themselves are not kept"),
        with_user={
            "list": "newest first, revoked ones too",
            "revoke": "refuse a key from now on",
        },
    )
    keys["revoke"].add_argument("key", type=int, metavar="KEY", help="its number")
    users["list"].add_argument("--after", type=int, default=0, help="go on behind this user")
    for listing in (invites["list"], keys["list"]):
        listing.add_argument("--before", type=int, help="go on below this number")
    for listing in (users["list"], invites["list"], keys["list"]):
        listing.add_argument("--limit", type=int, default=100, help="how many (default 100)")


def _add_actions(
    parser: argparse.ArgumentParser,
    *,
    with_user: Mapping[str, str],
    without_user: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, argparse.ArgumentParser]:
    subparsers = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions = {
        name: subparsers.add_parser(name, help=summary, description=summary)
        for name, summary in {**without_user, **with_user}.items()
    }
    for name in with_user:
        actions[name].add_argument("user", type=int, metavar="USER", help="the user's number")
    return actions


def _add_db(parser: argparse.ArgumentParser) -> None:
    actions = _add_actions(
        parser,
        with_user={},
        without_user={
            "upgrade": "make the database, or bring it to this program's version",
            "check": "look whether it is sound and every file is there",
            "backup": "copy a SQLite database that may be in use",
        },
    )
    actions["backup"].add_argument("file", type=Path, help="the copy; must not exist yet")
