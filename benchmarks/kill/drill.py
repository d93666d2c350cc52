"""Kill, start again on the same data, look at everything, and once more."""

import math
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from benchmarks.kill.audit import find_faults
from benchmarks.kill.clients import LoadClient, Sound, State, sha256
from benchmarks.kill.server import ARMED, BEFORE_COMMIT, BEFORE_REMOVAL, BEFORE_ROW, DEAD, STOPPED
from benchmarks.light_client import ADMIN_TOKEN, Client, make_key
from benchmarks.live import Log, start_process
from qwen3_audio.store.db import Database, open_database

NUM_USERS, CLIENTS_EACH = 3, 2
EARLIEST_S, LATEST_S = 0.02, 0.5  # after the load began
SHARES = {BEFORE_ROW: 0.2, BEFORE_COMMIT: 0.1, BEFORE_REMOVAL: 0.1}  # the rest: anywhere
TIMEOUT_S = 30
LOOK_S = 0.002
SWEPT = re.compile(r"Tidied up .* (\d+) files removed$")

Point = str | None  # of a write; None: anywhere
Shown = Callable[[list[Point]], Iterable[Point]]


@dataclass
class Drill:
    """How often, at which moments, and what was found afterwards."""

    num_kills: int = 0
    num_in_flight: int = 0  # kills that cut off at least one request
    num_cut: int = 0  # requests
    inside_write: Counter[str] = field(default_factory=Counter)  # kills by point
    num_swept: int = 0  # files that were left, and gone after the start
    answers: Counter[str] = field(default_factory=Counter)
    num_compared: int = 0  # sounds that were fetched again
    num_voices: int = 0  # that were answered
    faults: list[str] = field(default_factory=list)

    def as_result(self) -> dict[str, Any]:
        return dict(vars(self))


def drill(url: str, *, num_kills: int, seed: int, shown: Shown = list) -> Drill:
    """So many kills of a server on this empty database; `shown` goes through them, visibly."""
    folder = Path(tempfile.mkdtemp(prefix="qwen3-audio-kill-"))
    try:
        with closing(open_database(url)) as db:
            return _Run(url, db, folder, random.Random(seed)).run(num_kills, shown)
    finally:
        shutil.rmtree(folder)


def draw_points(chance: random.Random, num_kills: int) -> list[Point]:
    """Where each server dies: at a point of a write, or anywhere (None)."""
    points: list[Point] = []
    for point, share in SHARES.items():
        points += [point] * math.ceil(num_kills * share)
    points = (points + [None] * num_kills)[:num_kills]
    chance.shuffle(points)
    return points


class _Servers:
    """One server process after the other, on the same data."""

    def __init__(self, url: str, folder: Path) -> None:
        self.address = ""
        self._folder = folder
        self._log_path = folder / "log"
        self._process = start_process(
            ["benchmarks.kill.server", str(folder), "serve", "--fake"],
            is_spoken_to=True,
            DATABASE_URL=url,
            DATA_DIR=str(folder / "data"),
            ADMIN_TOKEN=ADMIN_TOKEN,
            OMP_NUM_THREADS="1",
            OPENBLAS_NUM_THREADS="1",
        )
        self._number: int | None = None  # of the living one

    def begin(self) -> None:
        """Start the next one, and wait until it serves."""
        for name in (ARMED, STOPPED, self._log_path.name):
            (self._folder / name).unlink(missing_ok=True)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._log_path}\n")
        self._process.stdin.flush()
        self._number = int(self._said())
        _wait_until(lambda: self.read_log().address is not None, "The server did not start")
        self.address = self.read_log().address or ""

    def read_log(self) -> Log:
        """Of the present one, or of the last one if that was killed."""
        log = Log()
        if self._log_path.exists():
            with self._log_path.open(encoding="utf-8") as lines:
                log.follow(line for line in lines if line.endswith("\n"))
        return log

    def stop_at(self, point: str) -> None:
        """Returns once a write has come there; it goes no further."""
        armed = self._folder / "arming"
        armed.write_text(point, encoding="utf-8")
        armed.rename(self._folder / ARMED)
        _wait_until((self._folder / STOPPED).exists, f"No write came to the point {point}")

    def kill(self) -> None:
        """SIGKILL; returns when nothing of it is left."""
        if self._number is not None:
            os.kill(self._number, signal.SIGKILL)
            self._number = None
            assert self._said() == DEAD

    def close(self) -> None:
        self.kill()
        self._process.communicate()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit(otherwise)
        time.sleep(LOOK_S)


class _Run:
    def __init__(self, url: str, db: Database, folder: Path, chance: random.Random) -> None:
        self._url, self._db, self._folder, self._chance = url, db, folder, chance
        self._clients: list[LoadClient] = []
        self._found = Drill()
        self._compared: set[int] = set()  # generations

    def run(self, num_kills: int, shown: Shown) -> Drill:
        with closing(_Servers(self._url, self._folder)) as servers:
            servers.begin()
            self._add_clients(servers.address)
            for point in shown(draw_points(self._chance, num_kills)):
                self._kill_under_load(servers, point)
                self._found.faults += [f"in the log: {line}" for line in servers.read_log().errors]
                servers.begin()
                self._note_swept(servers.read_log())
                self._look(servers.address)
            self._compared.clear()
            self._compare_all(servers.address)
        return self._summed_up()

    def _add_clients(self, address: str) -> None:
        for _ in range(NUM_USERS):
            key = make_key(address)
            for _ in range(CLIENTS_EACH):
                self._clients.append(LoadClient(key, random.Random(self._chance.random())))

    def _kill_under_load(self, servers: _Servers, point: Point) -> None:
        is_over = Event()
        with ThreadPoolExecutor(len(self._clients)) as threads:
            works = [threads.submit(one.work, servers.address, is_over) for one in self._clients]
            time.sleep(self._chance.uniform(EARLIEST_S, LATEST_S))
            if point is not None:
                servers.stop_at(point)
                self._found.inside_write[point] += 1
            is_over.set()  # so that no request counts that began behind the kill
            servers.kill()
        num_cut = sum(work.result() for work in works)
        self._found.num_kills += 1
        self._found.num_cut += num_cut
        self._found.num_in_flight += num_cut > 0

    def _note_swept(self, log: Log) -> None:
        found = (SWEPT.search(line) for line in log.lines)
        self._found.num_swept += sum(int(match[1]) for match in found if match)

    def _look(self, address: str) -> None:
        journals = [client.journal for client in self._clients]
        faults = find_faults(self._db, self._folder / "data" / "blobs", journals)
        self._found.faults += [f"after kill {self._found.num_kills}: {fault}" for fault in faults]
        self._compare_all(address)

    def _compare_all(self, address: str) -> None:
        """Over HTTP: what the clients saw, as far as it was not fetched before."""
        for one in self._clients:
            with closing(Client(address, one.key)) as http:
                for number, sound in one.journal.sounds.items():
                    if number not in self._compared:
                        self._compare(http, number, sound)
                listed = {row["voice_id"] for row in http.get("/voices").json()}
                lost = set(one.journal.kept_voices()) - listed
                self._found.faults += [f"voice {number} is not listed" for number in lost]

    def _compare(self, http: Client, number: int, sound: Sound) -> None:
        answer = http.get(f"/getstored/{number}")
        wanted = 200 if sound.state is State.KEPT else 404
        if answer.status != wanted:
            self._found.faults.append(f"{sound.state} sound {number} is {answer.status}")
        elif wanted == 200 and sha256(answer.data) != sound.sha256:
            self._found.faults.append(f"sound {number} has other bytes than before")
        self._compared.add(number)
        self._found.num_compared += 1

    def _summed_up(self) -> Drill:
        for one in self._clients:
            self._found.answers += one.journal.answers
            self._found.num_voices += len(one.journal.voices)
            self._found.faults += one.journal.faults
        return self._found
