"""`qwen3-audio bench`: a server, or the engine alone, under load; and `bench compare A B`."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3_audio.assembly import choose_checkpoints
from qwen3_audio.bench.compare import compare_results, describe_differences, format_comparison
from qwen3_audio.bench.http_client import HttpTarget
from qwen3_audio.bench.loops import Run
from qwen3_audio.bench.memory import peak_memory_bytes
from qwen3_audio.bench.options import Options, read_options
from qwen3_audio.bench.own_server import run_own_server
from qwen3_audio.bench.plots import PACKAGES as PLOT_PACKAGES
from qwen3_audio.bench.plots import check_plot, write_plot
from qwen3_audio.bench.points import Amount, is_down, measure_point
from qwen3_audio.bench.requests import build_run, read_clips
from qwen3_audio.bench.results import (
    FORMAT,
    describe_machine,
    format_points,
    read_result,
    write_result,
)
from qwen3_audio.bench.sample import BenchFailed, Sample
from qwen3_audio.bench.transcription_request import Clip
from qwen3_audio.bench.word_errors import NOT_JUDGED, check_packages, count_errors
from qwen3_audio.commands.arguments import read_settings
from qwen3_audio.errors import StartError
from qwen3_audio.types import ModelKind

LEAST_REQUESTS = 8  # of a closed loop
SPEECH_KINDS = (ModelKind.CUSTOM_VOICE, ModelKind.VOICE_DESIGN)  # that need no reference


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 if nobody answers, or if any request failed."""
    if arguments.topic == "compare":
        return _compare(arguments)
    options = read_options(arguments)
    _check_target(arguments)
    try:
        return _measure(arguments, options)
    except BenchFailed as error:
        print(f"qwen3-audio: {error}", file=sys.stderr)
        return 1


def _compare(arguments: argparse.Namespace) -> int:
    first, second = read_result(arguments.first), read_result(arguments.second)
    if arguments.plot is not None:
        check_plot(arguments.plot)
        check_packages(PLOT_PACKAGES, "--plot")
    print(format_comparison(compare_results(first, second)))
    for line in describe_differences(first, second):
        print(line)
    if arguments.plot is not None:
        names = (arguments.first.stem, arguments.second.stem)
        write_plot(arguments.plot, list(zip(names, (first, second), strict=True)))
    return 0


def _check_target(arguments: argparse.Namespace) -> None:
    """What can't go together, and unknown precisions, before anything is made or started."""
    read_settings(arguments)
    is_own = arguments.random or arguments.demo or arguments.fake or arguments.model_path
    if arguments.url and (is_own or arguments.engine):
        raise StartError("--url names a server that runs; leave out what would start another one")
    if arguments.engine and arguments.fake:
        raise StartError("--fake has no engine; leave out --engine or --fake")
    if not arguments.url and not is_own:
        raise StartError(
            "Nothing to measure: give --url of a server that runs, --model-path, --demo or"
            " --random 0.6b"
        )


def _measure(arguments: argparse.Namespace, options: Options) -> int:
    clips = read_clips(options)
    amount = replace(options.amount, least_requests=max(LEAST_REQUESTS, len(clips)))
    with _open_target(arguments, options, clips) as (ask, pid, target):
        result: dict[str, Any] = {
            "format": FORMAT,
            "target": target,
            "work": _describe_work(options),
            "machine": describe_machine(),
            "points": list(_points(ask, options, amount, pid)),
        }
    print(format_points(result))
    if arguments.out is not None:
        write_result(arguments.out, result)
    if options.plot is not None:
        write_plot(options.plot, [(target["what"], result)])
    return 1 if any(point["num_failed"] for point in result["points"]) else 0


def _points(
    ask: Run, options: Options, amount: Amount, pid: int | None
) -> Iterator[dict[str, Any]]:
    """Until somebody finds that nobody listens any more."""
    for load in options.loads:
        samples, point = measure_point(ask, load, amount, kind=options.kind, report=_say)
        if options.manifest is not None:
            point["words"] = _judge(samples, options)
        peak_bytes = None if pid is None else peak_memory_bytes(pid)
        point["peak_memory_mb"] = None if peak_bytes is None else round(peak_bytes / 1e6)
        yield point
        if is_down(samples):
            _say(f"The server went away at {load.label}; the rest is not measured")
            return


def _judge(samples: list[Sample], options: Options) -> dict[str, Any]:
    if options.is_random:
        return {"wer": NOT_JUDGED, "cer": NOT_JUDGED}
    said = [sample.said or "" for sample in samples]
    heard = [(sample.heard or "") if sample.error is None else "" for sample in samples]
    return count_errors(said, heard, options.fields.get("language"))


def _describe_work(options: Options) -> dict[str, Any]:
    common = {"kind": options.kind, "fields": options.fields, "seed": options.amount.seed}
    if options.kind == "speech":
        return {**common, "num_texts": len(options.texts), "num_frames": options.num_frames}
    if options.manifest is not None:
        return {**common, "manifest": options.manifest.name}
    return {**common, "clip_s": options.clip_s, "num_tokens_a_piece": options.num_tokens}


@contextmanager
def _open_target(
    arguments: argparse.Namespace, options: Options, clips: Sequence[Clip]
) -> Iterator[tuple[Run, int | None, dict[str, Any]]]:
    """(how to ask, process to watch, what it is)."""
    if arguments.url is not None:
        target = HttpTarget(arguments.url, api_key=arguments.api_key)
        target.check()
        yield build_run(target, options, clips, is_ours=False), None, {"what": arguments.url}
        return
    settings = read_settings(arguments)
    what = {
        "what": _name_target(arguments),
        "dtype": settings.qwen_tts_dtype,
        "threads": options.num_threads,
    }
    with _model_paths(arguments) as paths:
        if arguments.engine:
            with _open_engine(arguments, options, paths) as ask:
                yield ask, os.getpid(), what
            return
        _say("Starting a server")
        with run_own_server(_serve_arguments(arguments, paths), _threads(options)) as server:
            target = HttpTarget(server.address)
            ask = build_run(target, options, clips, is_ours=True)
            yield (
                ask,
                server.pid,
                {
                    **what,
                    "where": server.where,
                    "start_s": round(server.start_s, 2),
                },
            )


@contextmanager
def _model_paths(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Of the checkpoints to load; random ones are made now and, without a folder, not kept."""
    if arguments.random is None:
        yield arguments.model_path
        return
    from qwen3_audio.bench.random_checkpoints import SIZES, write_checkpoints

    kinds = ("custom_voice",) if arguments.work == "speech" else ("asr",)
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-bench-") as scratch:
        home = (arguments.checkpoints or Path(scratch)) / arguments.random
        _say("Making a random checkpoint")
        try:
            folders = write_checkpoints(home, kinds, SIZES[arguments.random])
        except OSError as error:
            raise StartError(f"Can't write to {home}: {error.strerror}") from None
        yield [str(folder) for folder in folders]


@contextmanager
def _open_engine(
    arguments: argparse.Namespace, options: Options, paths: Sequence[str]
) -> Iterator[Run]:
    from qwen3_audio.bench.engine_target import run_engine

    settings = read_settings(arguments)
    checkpoints = choose_checkpoints(settings, paths, is_demo=arguments.demo)
    kinds = SPEECH_KINDS if options.kind == "speech" else (ModelKind.ASR,)
    found = [checkpoint for checkpoint in checkpoints if checkpoint.kind in kinds]
    if not found:
        raise StartError(f"None of the checkpoints is for {options.kind}")
    with run_engine(
        found[0],
        settings,
        texts=options.texts,
        num_frames=options.num_frames,
        clip_s=None if options.kind == "speech" else options.clip_s,
        num_tokens=options.num_tokens,
        num_threads=options.num_threads,
    ) as ask:
        yield ask


def _serve_arguments(arguments: argparse.Namespace, paths: Sequence[str]) -> list[str]:
    words = [word for path in paths for word in ("--model-path", path)]
    words += [f"--{name}" for name in ("demo", "fake") if getattr(arguments, name)]
    for name in ("device", "dtype"):
        if getattr(arguments, name):
            words += [f"--{name}", getattr(arguments, name)]
    return words


def _threads(options: Options) -> dict[str, str | None]:
    return {} if options.num_threads is None else {"OMP_NUM_THREADS": str(options.num_threads)}


def _name_target(arguments: argparse.Namespace) -> str:
    """Without folders of this machine."""
    models = ", ".join(Path(path).name for path in arguments.model_path)
    kind = f"random {arguments.random}" if arguments.random else models
    name = "demo" if arguments.demo else "fake engine" if arguments.fake else kind
    return f"{name}, engine alone" if arguments.engine else name


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
