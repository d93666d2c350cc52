"""The real program in a process of its own, on a free port of loopback."""

import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GREETING = re.compile(
    r"(?:(?:Serving|own models:) (?P<what>.*) at|Uvicorn running on) (?P<address>http://\S+)"
)


@dataclass
class LiveProcess:
    """A server that has said that it serves."""

    process: subprocess.Popen[str]
    address: str
    what: str
    lines: list[str]  # of standard error, up to the greeting; all of them once it has ended

    def stop(self, signum: int) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(signum)
        _, rest = self.process.communicate(timeout=60)
        self.lines += rest.splitlines()
        return self.process.returncode


def clean_environment(**env: str) -> dict[str, str]:
    """This process's, without settings that somebody made here, and on loopback."""
    from qwen3_audio.settings import VARIABLES

    kept = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    ours = {"HOST": "127.0.0.1", "PORT": "0", "OMP_NUM_THREADS": "1"}
    return kept | ours | {"DATA_DIR": data_dir()} | env


@functools.cache
def data_dir() -> str:
    """One for all servers of a session that name none; it goes when the session does."""
    folder = tempfile.mkdtemp(prefix="qwen3-audio-data-")
    atexit.register(shutil.rmtree, folder)
    return folder


@contextmanager
def run_server(command: Sequence[str], **env: str) -> Iterator[LiveProcess]:
    """Start `python command...` in the repository and wait until it serves."""
    with run_program([sys.executable, *command], ROOT, **env) as server:
        yield server


@contextmanager
def run_program(program: Sequence[str], folder: Path, **env: str) -> Iterator[LiveProcess]:
    """Start any program that becomes a server, in a folder, and wait until it serves."""
    process = subprocess.Popen(
        program,
        cwd=folder,
        env=clean_environment(**env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line.rstrip())
            if match := GREETING.search(lines[-1]):
                yield LiveProcess(process, match["address"], match["what"] or "", lines)
                break
        else:
            raise AssertionError("it never served:\n" + "\n".join(lines))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()
