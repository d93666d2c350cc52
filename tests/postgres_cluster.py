"""A private PostgreSQL server for one test session: its own folder, a socket in it, no port."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from alembic.script import ScriptDirectory

from qwen3_audio.store.migrate import SCRIPTS
from qwen3_audio.store.tables import metadata

HEAD = ScriptDirectory(SCRIPTS).get_current_head()
FASTER = (
    "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200"
    " -c autovacuum=off"  # its ANALYZE would change plans in the middle of a test
)


def find_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, if they are installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@dataclass(frozen=True)
class Cluster:
    socket_folder: Path

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.socket_folder}"

    def create(self) -> str:
        """A new empty database; its name."""
        name = f"test_{secrets.token_hex(6)}"
        self.run(f'CREATE DATABASE "{name}"')
        return name

    def drop(self, name: str) -> None:
        self.run(f'DROP DATABASE "{name}" WITH (FORCE)')

    def clear(self, name: str) -> None:
        """Back to what the migrations made; far cheaper than another database for every test."""
        names = [table for table in metadata.tables if table not in ("users", "runtime_stats")]
        statements = [
            "SET session_replication_role = replica",  # no foreign keys while rows go
            *(f"DELETE FROM {table}" for table in names),
            "DELETE FROM users WHERE user_id <> 1",
            "UPDATE users SET disabled_at = NULL",
            "UPDATE runtime_stats SET value = NULL, updated_at = NULL",
            f"UPDATE alembic_version SET version_num = '{HEAD}'",
        ]
        self.run("; ".join(statements), database=name)

    def run(self, statements: str, *, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as conn:
            conn.execute(statements.encode())


@contextmanager
def running_cluster(programs: Path) -> Iterator[Cluster]:
    # Not below pytest's own folders: those are closed to the server's user, and long paths are
    # no names for sockets.
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    if user is not None:
        shutil.chown(folder, user)

    def run(program: str, *options: str) -> None:
        command = [str(programs / program), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, user=user)

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        settings = f"-k {folder} -c listen_addresses= {FASTER}"
        run("pg_ctl", "-D", data, "-o", settings, "-l", str(folder / "log"), "-w", "start")
        try:
            yield Cluster(folder)
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
