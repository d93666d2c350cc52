"""What a request costs outside the engine, on SQLite, and whether a million rows change that.

The fake engine answers at once, so all that a client waits for is the rest: HTTP, the key, the
voice, encoding, the books. Two real servers take turns, one whose database is empty and one whose
database is full; then 32 users want speech from the full one while /health is timed.
"""

import argparse
import multiprocessing
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from benchmarks.light_client import ADMIN_TOKEN, Answer, Client, make_key
from benchmarks.live import run_command
from benchmarks.mixed_requests import tone_wav
from benchmarks.report import (
    best_and_median,
    check_all,
    counted,
    format_table,
    percentile,
    write_result,
)

MAX_OUTSIDE_MS = 5.0
MAX_CHANGE = 0.20
MAX_HEALTH_MS = 50.0
NUM_ROWS, CHUNK = 1_000_000, 20_000
NUM_USERS = 32
NUM_TURNS, NUM_EACH, NUM_WARM_UP = 100, 5, 50
NUM_HEALTH_CALLS, HEALTH_PAUSE_S = 200, 0.02
TEXT = "Hello big world"
BOUNDED = ("tts", "speech")  # sounds that are kept wait for the disk besides

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Account:
    key: str
    voice_id: int


def bodies(voice_id: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """The requests by name."""
    tts = {"voice_id": voice_id, "text": TEXT, "seed": 1}
    preset = {"input": TEXT, "voice": "ryan", "response_format": "wav"}
    return {
        "tts": ("/tts", tts),
        "speech": ("/v1/audio/speech", preset),
        "tts_stored": ("/tts", tts | {"store": True}),
    }


# -- the two places ------------------------------------------------------------------------------


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server with keys on this folder."""
    variables = {"DATA_DIR": str(folder), "ADMIN_TOKEN": ADMIN_TOKEN, "OMP_NUM_THREADS": "1"}
    with run_command(["qwen3_audio", "serve", "--fake"], **variables) as server:
        yield server.address


def prepare(folder: Path, num_rows: int) -> list[Account]:
    """Users with a key and a voice each, and so many generations of theirs."""
    with serve(folder) as address:
        accounts = [_make_account(address) for _ in range(NUM_USERS)]
    if num_rows:
        fill(folder / "qwen3-audio.db", num_rows)
    return accounts


def _make_account(address: str) -> Account:
    key = make_key(address)
    with closing(Client(address, key)) as client:
        fields = {"name": "Geoff", "transcript": "the quick brown fox", "language": "English"}
        made = _checked(client.upload("/clonevoice", fields, tone_wav(1.0, 220)))
    return Account(key, made.json()["voice_id"])


def fill(file: Path, num_rows: int) -> None:
    """Generations of the past year; half of them the first user's, every twentieth one stored."""
    chance = random.Random(1)
    with closing(sqlite3.connect(file, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous=OFF")
        voices = conn.execute("SELECT user_id, voice_id FROM voices ORDER BY voice_id").fetchall()
        starts = range(0, num_rows, CHUNK)
        for start in counted(starts, f"blocks of {CHUNK} generations", len(starts)):
            numbers = range(start, min(start + CHUNK, num_rows))
            conn.execute("BEGIN IMMEDIATE")
            stored = [(f"{n:064x}", 40_000, _moment(n, num_rows)) for n in numbers if n % 20 == 0]
            conn.executemany("INSERT INTO blobs VALUES (?, ?, ?)", stored)
            conn.executemany(INSERT, (_row(n, num_rows, voices, chance) for n in numbers))
            conn.execute("COMMIT")
        conn.execute(COUNT_UP)
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


COLUMNS = (
    *("user_id", "key_id", "voice_id", "route", "status", "num_chars", "tokens", "latency_ms"),
    *("audio_ms", "response_format", "language", "seed", "finish_reason", "model"),
    *("created_at", "ended_at", "audio_sha256", "text"),
)
INSERT = f"INSERT INTO generations ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
COUNT_UP = """
    INSERT INTO usage_days (user_id, day, key_id, tokens_tts, tts_calls)
    SELECT user_id, date(created_at), key_id, sum(tokens), count(*) FROM generations
    GROUP BY user_id, date(created_at), key_id
"""


def _row(
    number: int, num_rows: int, voices: list[tuple[int, int]], chance: random.Random
) -> tuple[Any, ...]:
    user_id, voice_id = voices[0] if number % 2 else chance.choice(voices)
    tokens = chance.randint(10, 400)
    is_stored = number % 20 == 0
    moment = _moment(number, num_rows)
    return (
        *(user_id, user_id - 1, voice_id, "tts", "done", tokens, tokens, 12 * tokens),
        *(60 * tokens, "wav", "English", chance.getrandbits(32), "stop", "fake-base"),
        *(moment, moment),
        f"{number:064x}" if is_stored else None,
        "word " * (tokens // 5) if is_stored else None,
    )


def _moment(number: int, num_rows: int) -> str:
    """Evenly over the year that ended yesterday."""
    since = timedelta(days=1 + 364 * (1 - number / num_rows))
    return (datetime.now(UTC) - since).strftime("%Y-%m-%d %H:%M:%S.%f")


# -- time outside the engine ---------------------------------------------------------------------


def measure_time(places: dict[str, str], accounts: dict[str, Account], num_turns: int) -> Result:
    """Milliseconds by database and request, the databases taking turns."""
    times: dict[str, dict[str, list[float]]] = {place: {} for place in places}
    with ExitStack() as open_clients:
        clients = {
            place: open_clients.enter_context(closing(Client(address, accounts[place].key)))
            for place, address in places.items()
        }
        for place in places:
            _time_requests(clients[place], accounts[place], NUM_WARM_UP)
        for turn in counted(range(num_turns), "turns", num_turns):
            for place in sorted(places, reverse=turn % 2 == 1):
                made = _time_requests(clients[place], accounts[place], NUM_EACH)
                for name, values in made.items():
                    times[place].setdefault(name, []).extend(values)
    return {
        place: {name: best_and_median(values) for name, values in of_place.items()}
        for place, of_place in times.items()
    }


def _time_requests(client: Client, account: Account, num_each: int) -> dict[str, list[float]]:
    return {
        name: [_checked(client.post(path, body)).taken_ms for _ in range(num_each)]
        for name, (path, body) in bodies(account.voice_id).items()
    }


def _checked(answer: Answer) -> Answer:
    if answer.status != 200:
        raise SystemExit(f"Answered {answer.status}: {answer.data[:300]!r}")
    return answer


# -- /health under load --------------------------------------------------------------------------


def measure_health(address: str, accounts: list[Account]) -> Result:
    """The users are a process of their own, so that their work does not count as the server's."""
    context = multiprocessing.get_context("spawn")
    has_begun, is_over, answered = context.Event(), context.Event(), context.Queue()
    users = context.Process(target=_want, args=(address, accounts, has_begun, is_over, answered))
    users.start()
    has_begun.wait()
    begin_s = time.perf_counter()
    with closing(Client(address)) as client:
        times_ms = list(counted(_time_health(client), "health calls", NUM_HEALTH_CALLS))
    taken_s = time.perf_counter() - begin_s
    is_over.set()
    answers = answered.get()
    users.join()
    return {
        "slowest_ms": max(times_ms),
        "median_ms": statistics.median(times_ms),
        "p95_ms": percentile(times_ms, 95),
        "num_calls": len(times_ms),
        "num_users": len(accounts),
        "requests_per_s": round(sum(answers.values()) / taken_s, 1),
        "answers": dict(answers),
    }


def _time_health(client: Client) -> Iterator[float]:
    for _ in range(NUM_HEALTH_CALLS):
        yield _checked(client.get("/health")).taken_ms
        time.sleep(HEALTH_PAUSE_S)


def _want(
    address: str, accounts: list[Account], has_begun: Event, is_over: Event, answered: Any
) -> None:
    """Every user asks again as soon as they are answered."""
    answers: Counter[str] = Counter()
    lock = threading.Lock()

    def work(account: Account) -> None:
        with closing(Client(address, account.key)) as client:
            while not is_over.is_set():
                for name, (path, body) in bodies(account.voice_id).items():
                    status = client.post(path, body).status
                    with lock:
                        answers[f"{name} {status}"] += 1
                    has_begun.set()

    with ThreadPoolExecutor(len(accounts)) as threads:
        list(threads.map(work, accounts))
    answered.put(answers)


# -- all -----------------------------------------------------------------------------------------


def measure(home: Path, num_rows: int, num_turns: int) -> Result:
    folders = {"empty": home / "empty", "full": home / "full"}
    accounts = {
        place: prepare(folder, num_rows if place == "full" else 0)
        for place, folder in folders.items()
    }
    with ExitStack() as servers:
        places = {place: servers.enter_context(serve(f)) for place, f in folders.items()}
        first = {place: made[0] for place, made in accounts.items()}
        times = measure_time(places, first, num_turns)
        health = measure_health(places["full"], accounts["full"])
    return {
        "outside": {
            "num_rows": num_rows,
            "times_ms": times,
            "change": {
                name: round(times["full"][name]["median"] / times["empty"][name]["median"] - 1, 3)
                for name in times["empty"]
            },
        },
        "health": health,
    }


def judge(result: Result) -> dict[str, bool]:
    """Every bound by its name."""
    checks, outside = {}, result["outside"]
    for name in BOUNDED:
        taken_ms, change = outside["times_ms"]["empty"][name]["median"], outside["change"][name]
        what = f"{name}: median outside the engine {taken_ms:.2f} ms < 5 ms"
        checks[what] = taken_ms < MAX_OUTSIDE_MS
        what = f"{name}: {outside['num_rows']} generations change that by {change:+.1%} < 20 %"
        checks[what] = change < MAX_CHANGE
    health = result["health"]
    slowest, num_users = health["slowest_ms"], health["num_users"]
    checks[f"/health with {num_users} users: slowest {slowest:.1f} ms < 50 ms"] = (
        slowest < MAX_HEALTH_MS
    )
    wrong = [answer for answer in health["answers"] if not answer.endswith(" 200")]
    checks[f"every answer of theirs is 200 {wrong or ''}".rstrip()] = not wrong
    return checks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help="generations")
    parser.add_argument(
        "--turns", type=int, default=NUM_TURNS, help="of each database, 5 requests of each kind"
    )
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-store-") as home:
        result = measure(Path(home), chosen.rows, chosen.turns)
    rows = [
        [place, name, values["best"], values["median"]]
        for place, of_place in result["outside"]["times_ms"].items()
        for name, values in of_place.items()
    ]
    print(format_table(["database", "request", "best ms", "median ms"], rows) + "\n")
    write_result("store", result)
    return check_all(judge(result))


if __name__ == "__main__":
    sys.exit(main())
