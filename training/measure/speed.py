"""Real-time factors on one core, and how long the first speech takes after a start."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qwen3_audio.bench.memory import measure_bare_torch
from qwen3_audio.bench.own_server import OwnServer, run_own_server
from qwen3_audio.bench.results import load_average
from training.measure.asking import Client, Spoken, named
from training.measure.plan import Json, Plan
from training.measure.sound import duration_s
from training.run import say
from training.tts.evaluate import draw_sentences
from training.tts.voices import VOICES

_ROOT = Path(__file__).parents[2]
_FEWER = 10
_FIRST_TEXT = "Hello, this is the server speaking."
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def measure_speed(plan: Plan) -> Json:
    return {"one_core": measure_factors(plan), "start": measure_starts(plan)}


def measure_factors(plan: Plan) -> Json:
    """One request at a time over HTTP; processor time stands beside, for a machine that is busy."""
    texts = draw_sentences(plan.part_of(_FEWER, least=4))
    bodies = [
        body
        for number, text in enumerate(texts)
        for body in named([text], VOICES[number % len(VOICES)].name, is_greedy=False)
    ]
    with ExitStack() as stack:
        with one_core() as is_bound:
            server = stack.enter_context(run_own_server(plan.server_arguments, _ONE_THREAD))
        client = stack.enter_context(Client(server.address, at_once=1))
        warm = client.speak(bodies[0])
        client.hear(warm.wav)
        spoken, speaking_cpu_s = _timed_speech(server, client, bodies)
        listening_s, listening_cpu_s = _timed_listening(server, client, spoken)
    sound_s = sum(duration_s(one.wav) for one in spoken)
    speaking_s = sum(one.wall_s for one in spoken)
    result = {
        "sound_s": round(sound_s, 1),
        "core": "one core" if is_bound else "one thread; this system binds no process to a core",
        "speech": _factor(speaking_s, speaking_cpu_s, sound_s),
        "transcription": _factor(listening_s, listening_cpu_s, sound_s),
        "load_average": load_average(),
        "where": server.where,
    }
    say(f"  real-time factors: {result['speech']}, {result['transcription']}")
    return result


@contextmanager
def one_core() -> Iterator[bool]:
    """Processes that start inside have one core; False where the system cannot say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)


def _timed_speech(
    server: OwnServer, client: Client, bodies: list[Json]
) -> tuple[list[Spoken], float | None]:
    began_s = processor_s(server.pid)
    spoken = [client.speak(body) for body in bodies]
    return spoken, _since(began_s, server.pid)


def _timed_listening(
    server: OwnServer, client: Client, spoken: list[Spoken]
) -> tuple[float, float | None]:
    began_s, began_wall_s = processor_s(server.pid), time.perf_counter()
    for one in spoken:
        client.hear(one.wav)
    return time.perf_counter() - began_wall_s, _since(began_s, server.pid)


def _since(began_s: float | None, pid: int) -> float | None:
    now_s = processor_s(pid)
    return None if began_s is None or now_s is None else now_s - began_s


def processor_s(pid: int) -> float | None:
    """What all threads of a process have computed; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _factor(wall_s: float, cpu_s: float | None, sound_s: float) -> Json:
    if sound_s <= 0:
        raise RuntimeError("The server spoke no sound at all")
    return {
        "rtf": round(wall_s / sound_s, 4),
        "processor": None if cpu_s is None else round(cpu_s / sound_s, 4),
    }


def measure_starts(plan: Plan) -> Json:
    """Twice on one cache folder that is empty at first, and what Python and uv take of it."""
    command = "serve --demo" if plan.is_demo else "serve --model-path ..."
    torch_s, _ = measure_bare_torch()
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-measure-") as cache:
        starts = [_time_start(plan, Path(cache)) for _ in range(2)]
    result = {
        "command": command,
        "first": starts[0],
        "again": starts[1],
        "import_torch_s": round(torch_s, 2),
        "uv_s": measure_uv(),
        "load_average": load_average(),
    }
    say(f"  start: {result}")
    return result


def _time_start(plan: Plan, cache: Path) -> Json:
    began_s = time.perf_counter()
    with (
        run_own_server(plan.server_arguments, {"XDG_CACHE_HOME": str(cache)}) as server,
        Client(server.address) as client,
    ):
        spoken = client.speak({"input": _FIRST_TEXT})
        spoken_s = time.perf_counter() - began_s
    if not spoken.wav:
        raise RuntimeError(f"The first speech was refused: {spoken.reason}")
    return {"ready_s": round(server.start_s, 2), "spoken_s": round(spoken_s, 2)}


def measure_uv() -> float | None:
    """What `uv run` adds to a command once everything is installed; None without uv's folder."""
    if shutil.which("uv") is None or not (_ROOT / ".venv").is_dir():
        return None
    took_s = []
    for prefix in (["uv", "run", "--no-sync", "--offline", "python"], [sys.executable]):
        began_s = time.perf_counter()
        subprocess.run(
            [*prefix, "-c", "pass"], cwd=_ROOT, check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        took_s.append(time.perf_counter() - began_s)
    return round(max(took_s[0] - took_s[1], 0.0), 2)
