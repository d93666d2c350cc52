"""Bounds that only a running server shows, on tiny random checkpoints made on the spot.

health  eight speech and eight transcription requests at once: how long /health takes meanwhile
leave   how many engine steps a client that left still holds its slot
full    what a full line answers
memory  resident memory over 1,000 mixed requests, and above a bare `import torch`
kill    50 kills under load on SQLite, 50 on PostgreSQL: what is lost
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import (
    SIZES,
    write_checkpoints,
    write_slow_recognition,
    write_slow_speech,
)
from benchmarks.kill.measure import judge_kills, measure_kills
from benchmarks.live import ROOT, Server, rss_bytes, run_server
from benchmarks.mixed_requests import Ask, mixed_requests
from benchmarks.report import (
    check_all,
    counted,
    format_table,
    percentile,
    write_result,
)

MAX_HEALTH_MS = 50.0
NUM_HEALTH_CALLS = 200
HEALTH_PAUSE_S = 0.02  # so that the calls cover some seconds of load
NUM_AT_ONCE = 8
MAX_STEPS_AFTER_LEAVING = 2
NUM_LEAVES = 10
NUM_WARM_UP, NUM_MIXED, BLOCK = 100, 1000, 50
MAX_DRIFT = 0.05
MAX_ABOVE_TORCH_MB = 250
CONDITION_TIMEOUT_S = 60
LONG_TEXT = "One two three four five six seven eight nine ten. " * 10
SHORT_CLIP = ROOT / "tests" / "data" / "5s_dont_worry_about_him.wav"
LONG_CLIP = ROOT / "tests" / "data" / "30s_i_wont_open_this_door_again.wav"

Result = dict[str, Any]


def write_tiny(home: Path) -> list[Path]:
    """One of each kind."""
    kinds = ("custom_voice", "voice_design", "base", "asr")
    return write_checkpoints(home, kinds, SIZES["tiny"])


# -- health ------------------------------------------------------------------------------------


def measure_health(home: Path) -> Result:
    with run_server(write_tiny(home)) as server, _load(server) as done:
        _wait_until(lambda: server.metrics()['running{kind="custom_voice"}'] == NUM_AT_ONCE)
        times_ms = list(counted(_time_health(server), "health calls", NUM_HEALTH_CALLS))
        during = dict(done)
    return {
        "slowest_ms": max(times_ms),
        "median_ms": percentile(times_ms, 50),
        "p95_ms": percentile(times_ms, 95),
        "num_calls": len(times_ms),
        "finished_meanwhile": during,
    }


@contextmanager
def _load(server: Server) -> Iterator[Counter[str]]:
    """Eight speakers and eight listeners, each asking again as soon as it is answered."""
    is_over, done, clip = threading.Event(), Counter[str](), SHORT_CLIP.read_bytes()

    def speak() -> None:
        while not is_over.is_set():
            answer = server.speak(LONG_TEXT, response_format="pcm", max_new_tokens=50)
            done[f"speech {answer.status_code}"] += 1

    def listen() -> None:
        while not is_over.is_set():
            done[f"transcription {server.transcribe(clip).status_code}"] += 1

    with ThreadPoolExecutor(2 * NUM_AT_ONCE) as threads:
        futures = [threads.submit(work) for work in (speak, listen) for _ in range(NUM_AT_ONCE)]
        try:
            yield done
        finally:
            is_over.set()
    for future in futures:
        future.result()


def _time_health(server: Server) -> Iterator[float]:
    connection = _connect(server)
    for _ in range(NUM_HEALTH_CALLS):
        begin_s = time.perf_counter()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        yield 1000 * (time.perf_counter() - begin_s)
        assert answer.status == 200
        time.sleep(HEALTH_PAUSE_S)
    connection.close()


# -- leave -------------------------------------------------------------------------------------


def measure_leave(home: Path) -> Result:
    """Between the last look before a client goes and its slot being free, in engine steps.

    It is alone, so nothing counts steps once its slot is free. Steps are as long as those of real
    models, so that what passes on the way (the answer of /metrics, the farewell) hardly counts.
    """
    write_slow_speech(home / "slow-speech")
    write_slow_recognition(home / "slow-asr")
    with run_server([home / "slow-speech", home / "slow-asr"]) as server:
        ways = {
            "speech_streamed": ("custom_voice", _speech_request("pcm")),
            "speech_whole": ("custom_voice", _speech_request("wav")),
            "transcription": ("asr", _form_request(server, SHORT_CLIP)),
        }
        return {
            what: [
                _leave(server, kind, request)
                for _ in counted(range(NUM_LEAVES), f"leaving: {what}", NUM_LEAVES)
            ]
            for what, (kind, request) in ways.items()
        }


def _leave(server: Server, kind: str, request: tuple[dict[str, str], bytes]) -> int:
    headers, body = request
    path = "/v1/audio/transcriptions" if kind == "asr" else "/v1/audio/speech"
    running, steps = f'running{{kind="{kind}"}}', f'steps_total{{kind="{kind}"}}'
    at_first = server.metrics()
    connection = _connect(server)
    connection.request("POST", path, body, headers)
    _wait_until(lambda: server.metrics()[steps] > at_first[steps] + 2)
    before = server.metrics()
    if before[running] != 1:
        raise SystemExit(f"The request to leave ended too early: {before}")
    connection.close()
    _wait_until(lambda: server.metrics()[running] == 0)
    return round(server.metrics()[steps] - before[steps])


def _speech_request(response_format: str) -> tuple[dict[str, str], bytes]:
    body = f'{{"input": "{LONG_TEXT}", "voice": "ryan", "response_format": "{response_format}"}}'
    return {"Content-Type": "application/json"}, body.encode()


def _form_request(server: Server, clip: Path) -> tuple[dict[str, str], bytes]:
    request = server.http.build_request(
        "POST", "/v1/audio/transcriptions", files={"file": (clip.name, clip.read_bytes())}
    )
    return {"Content-Type": request.headers["Content-Type"]}, request.read()


# -- full --------------------------------------------------------------------------------------


def measure_full(home: Path) -> Result:
    """One runs, two wait; whoever comes then is told to come back, and later served."""
    with run_server(write_tiny(home), MAX_RUNNING="1", MAX_WAITING="2") as server:
        return {
            "speech": _fill(server, "custom_voice", lambda: _brief(server, LONG_TEXT, 400)),
            "transcription": _fill(
                server, "asr", lambda: server.transcribe(LONG_CLIP.read_bytes())
            ),
        }


def _brief(server: Server, text: str, max_frames: int) -> Any:
    return server.speak(text, max_new_tokens=max_frames)


def _fill(server: Server, kind: str, ask: Callable[[], Any]) -> Result:
    with ThreadPoolExecutor(NUM_AT_ONCE) as threads:
        answers = list(threads.map(lambda _: ask(), range(NUM_AT_ONCE)))
    refused = [answer for answer in answers if answer.status_code == 503]
    afterwards = ask()
    return {
        "statuses": dict(sorted(Counter(str(a.status_code) for a in answers).items())),
        "retry_after": sorted({a.headers.get("Retry-After", "missing") for a in refused}),
        "message": refused[0].json()["error"]["message"] if refused else None,
        "afterwards": afterwards.status_code,
    }


# -- memory ------------------------------------------------------------------------------------


def measure_memory(home: Path) -> Result:
    torch_bytes = _rss_after("import torch")
    with run_server(write_tiny(home)) as server:
        at_start_bytes = server.rss_bytes()
        asks = cycle(mixed_requests(server))
        _run_all(islice(asks, NUM_WARM_UP))
        warm_bytes, samples, statuses = server.rss_bytes(), [], Counter[str]()
        blocks = range(0, NUM_MIXED, BLOCK)
        for _ in counted(blocks, f"blocks of {BLOCK} mixed requests", len(blocks)):
            statuses.update(_run_all(islice(asks, BLOCK)))
            samples.append(server.rss_bytes())
    return {
        "torch_mb": _mb(torch_bytes),
        "at_start_mb": _mb(at_start_bytes),
        "warm_mb": _mb(warm_bytes),
        "samples_mb": [_mb(sample) for sample in samples],
        "drift": round(max(abs(sample / warm_bytes - 1) for sample in samples), 4),
        "above_torch_mb": _mb(max(samples) - torch_bytes),
        "statuses": dict(sorted(statuses.items())),
    }


def _run_all(asks: Iterator[Ask]) -> list[str]:
    """Eight at once; what came of each, as 'kind expected' or 'kind got instead of expected'."""

    def run(ask: Ask) -> str:
        status = ask.send().status_code
        if status == ask.expected:
            return f"{ask.what} {status}"
        return f"{ask.what} {status} INSTEAD OF {ask.expected}"

    with ThreadPoolExecutor(NUM_AT_ONCE) as threads:
        return list(threads.map(run, asks))


def _rss_after(code: str) -> int:
    """Of a Python that did only this."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    resident = rss_bytes(process.pid)
    process.communicate(b"\n")
    return resident


def _mb(num_bytes: int) -> float:
    return round(num_bytes / 1e6, 1)


# -- all ---------------------------------------------------------------------------------------


def _connect(server: Server) -> HTTPConnection:
    url = server.http.base_url
    return HTTPConnection(url.host, url.port, timeout=CONDITION_TIMEOUT_S)


def _wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + CONDITION_TIMEOUT_S
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit("The server did not get there in time")


def judge(results: dict[str, Result]) -> dict[str, bool]:
    """Every bound of the parts that were measured, by its name."""
    checks = {}
    if health := results.get("health"):
        slowest = health["slowest_ms"]
        checks[f"health: slowest of {health['num_calls']} calls {slowest:.1f} ms < 50 ms"] = (
            slowest < MAX_HEALTH_MS
        )
        done = health["finished_meanwhile"]
        checks[f"health: meanwhile {done}"] = set(done) == {"speech 200", "transcription 200"}
    if leave := results.get("leave"):
        for what, steps in leave.items():
            checks[f"leave: {what}: slot free after {max(steps)} steps <= 2"] = (
                max(steps) <= MAX_STEPS_AFTER_LEAVING
            )
    for what, line in results.get("full", {}).items():
        is_right = set(line["statuses"]) == {"200", "503"} and line["afterwards"] == 200
        checks[f"full: {what}: {line['statuses']}, then {line['afterwards']}"] = is_right
        says_when = all(text.isdigit() and int(text) > 0 for text in line["retry_after"])
        checks[f"full: {what}: Retry-After {line['retry_after']}"] = says_when
    if memory := results.get("memory"):
        checks[f"memory: drift {memory['drift']:.1%} <= 5 %"] = memory["drift"] <= MAX_DRIFT
        above = memory["above_torch_mb"]
        checks[f"memory: {above} MB above import torch <= 250 MB"] = above <= MAX_ABOVE_TORCH_MB
        wrong = [key for key in memory["statuses"] if "INSTEAD" in key]
        checks[f"memory: every answer as expected {wrong or ''}".rstrip()] = not wrong
    for what, found in results.get("kill", {}).items():
        checks |= judge_kills(what, found)
    return checks


PARTS: dict[str, Callable[[Path], Result]] = {
    "health": measure_health,
    "leave": measure_leave,
    "full": measure_full,
    "memory": measure_memory,
    "kill": measure_kills,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    chosen = parser.parse_args(arguments).parts or list(PARTS)
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    sys.setswitchinterval(0.0005)  # the client's own threads must not slow what is timed
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-soak-") as home:
        results = {part: PARTS[part](Path(home)) for part in chosen}
    print(format_table(["part", "figure", "value"], _rows(results)) + "\n")
    write_result("soak", results)
    return check_all(judge(results))


def _rows(results: dict[str, Result]) -> list[list[object]]:
    return [
        [part, figure, value]
        for part, result in results.items()
        for figure, value in result.items()
        if figure not in ("statuses", "samples_mb")
    ]


if __name__ == "__main__":
    sys.exit(main())
