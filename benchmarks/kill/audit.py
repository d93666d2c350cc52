"""What must hold after every restart: found by reading tables and files, not by asking the server.

Every function gives the faults that it found, each a sentence.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, and_, exists, func, or_, select

from benchmarks.kill.clients import Journal, State
from qwen3_audio.store.blob_rows import REFERRERS
from qwen3_audio.store.db import Database
from qwen3_audio.store.migrate import check
from qwen3_audio.store.tables import (
    UNENDED,
    Route,
    Status,
    batches,
    blobs,
    generations,
    usage_days,
    voices,
)

Rows = dict[int, tuple[Any, ...]]


def find_faults(db: Database, folder: Path, journals: Iterable[Journal]) -> list[str]:
    """All of them; what became of deletions without an answer is noted in the journals."""
    check(db)
    with db.read() as conn:
        return [
            *_half_written(conn),
            *_wrong_files(conn, folder),
            *_wrong_usage(conn),
            *_wrong_uses(conn),
            *_lost(conn, journals),
        ]


def _half_written(conn: Connection) -> Iterator[str]:
    done = generations.c.status == Status.DONE
    stored = generations.c.audio_sha256.is_not(None)
    parts = select(func.count()).where(generations.c.batch_id == batches.c.batch_id)
    sums = select(func.coalesce(func.sum(generations.c.tokens), 0)).where(
        generations.c.batch_id == batches.c.batch_id
    )
    living = voices.c.deleted_at.is_(None)
    missing = or_(voices.c.reference_sha256.is_(None), voices.c.prompt.is_(None))
    unused = [~exists().where(column == blobs.c.sha256) for column in REFERRERS]
    kinds: list[tuple[str, Table, ColumnElement[bool]]] = [
        ("generations have not ended", generations, _unended(generations)),
        ("batches have not ended", batches, _unended(batches)),
        ("done generations have no sound", generations, and_(done, generations.c.audio_ms < 1)),
        ("sounds have no text", generations, stored != generations.c.text.is_not(None)),
        (
            "batches lack generations",
            batches,
            parts.scalar_subquery() != batches.c.num_texts,
        ),
        (
            "batches cost another sum than their generations",
            batches,
            sums.scalar_subquery() != batches.c.tokens,
        ),
        ("voices lack a reference or prompt", voices, and_(living, missing)),
        ("files' rows belong to nothing", blobs, and_(*unused)),
    ]
    for what, table, condition in kinds:
        number = conn.execute(select(func.count()).select_from(table).where(condition)).scalar_one()
        if number:
            yield f"{number} {what}"


def _unended(table: Table) -> ColumnElement[bool]:
    return or_(table.c.status.in_(UNENDED), table.c.ended_at.is_(None))


def _wrong_files(conn: Connection, folder: Path) -> Iterator[str]:
    rows = _by_key(conn, blobs.c.sha256, blobs.c.size_bytes)
    files = {path: path.parent.name + path.name for path in folder.glob("*/*")}
    for path, name in files.items():
        if name not in rows:
            yield f"a file has no row: {path.relative_to(folder)}"
            continue
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != name or len(data) != rows[name]:
            yield f"a file has not the bytes of its name: {path.relative_to(folder)}"
    yield from (f"a row has no file: {name}" for name in rows.keys() - set(files.values()))
    yield from (f"a dead writer's mark stayed: {path.name}" for path in folder.glob(".writer-*"))


def _wrong_usage(conn: Connection) -> Iterator[str]:
    """The counters of every user against the rows that they count."""
    counted = {
        "tokens_tts": _of_generations(conn, Route.TTS, func.sum(generations.c.tokens)),
        "tokens_batch": _of_generations(conn, Route.BATCH, func.sum(generations.c.tokens)),
        "tokens_speech": _of_generations(conn, Route.SPEECH, func.sum(generations.c.tokens)),
        "tts_calls": _of_generations(conn, Route.TTS, func.count()),
        "speech_calls": _of_generations(conn, Route.SPEECH, func.count()),
        "batch_calls": _by_user(conn, func.count(), batches, batches.c.status != Status.FAILED),
        "tokens_voices": _by_user(conn, func.sum(voices.c.tokens), voices),
        "voices_created": _by_user(conn, func.count(), voices),
    }
    for name, rows in counted.items():
        total = _by_user(conn, func.sum(usage_days.c[name]), usage_days)
        for user_id in rows.keys() | total.keys():
            used, made = total.get(user_id, 0), rows.get(user_id, 0)
            if used != made:
                yield f"user {user_id} has {name} {used}, the rows have {made}"


def _of_generations(conn: Connection, route: Route, figure: ColumnElement[Any]) -> dict[int, int]:
    counts = (generations.c.route == route, generations.c.status != Status.FAILED)
    return _by_user(conn, figure, generations, *counts)


def _by_user(
    conn: Connection, figure: ColumnElement[Any], table: Table, *conditions: ColumnElement[bool]
) -> dict[int, int]:
    query = select(table.c.user_id, figure).where(*conditions).group_by(table.c.user_id)
    return {user_id: int(value) for user_id, value in conn.execute(query)}


def _wrong_uses(conn: Connection) -> Iterator[str]:
    """A living voice was used as often as generations with it were heard."""
    heard = or_(generations.c.status == Status.DONE, generations.c.tokens > 0)
    mine = (generations.c.voice_id == voices.c.voice_id, heard)
    used = select(func.count()).select_from(generations).where(*mine).scalar_subquery()
    query = select(voices.c.voice_id, voices.c.use_count, used)
    for number, counted, made in conn.execute(query.where(voices.c.deleted_at.is_(None))):
        if counted != made:
            yield f"voice {number} was counted {counted} times and used {made} times"


def _lost(conn: Connection, journals: Iterable[Journal]) -> Iterator[str]:
    rows = {
        row[0]: tuple(row[1:])
        for row in conn.execute(
            select(
                generations.c.generation_id,
                generations.c.status,
                generations.c.tokens,
                generations.c.audio_sha256,
            )
        )
    }
    query = select(batches.c.batch_id, batches.c.status, batches.c.tokens)
    ended = {row[0]: tuple(row[1:]) for row in conn.execute(query)}
    is_living = _by_key(conn, voices.c.voice_id, voices.c.deleted_at.is_(None))
    for journal in journals:
        yield from _lost_requests(journal, rows, ended)
        yield from _lost_sounds(journal, rows)
        yield from _lost_voices(journal, is_living)


def _by_key(conn: Connection, key: Column[Any], value: ColumnElement[Any]) -> dict[Any, Any]:
    return {row[0]: row[1] for row in conn.execute(select(key, value))}


def _lost_requests(journal: Journal, rows: Rows, ended: Rows) -> Iterator[str]:
    for number, tokens in journal.tokens.items():
        if rows.get(number, ())[:2] != (Status.DONE, tokens):
            yield f"generation {number} was answered with {tokens} tokens: {rows.get(number)}"
    for number, tokens in journal.batches.items():
        if ended.get(number) != (Status.DONE, tokens):
            yield f"batch {number} was answered with {tokens} tokens: {ended.get(number)}"


def _lost_sounds(journal: Journal, rows: Rows) -> Iterator[str]:
    for number, sound in journal.sounds.items():
        kept = rows.get(number, (None, 0, None))[2]
        if sound.state is State.DELETING:
            sound.state = State.DELETED if kept is None else State.KEPT
        wanted = None if sound.state is State.DELETED else sound.sha256
        if kept != wanted:
            yield f"the sound of generation {number} is {sound.state} and has become {kept}"


def _lost_voices(journal: Journal, is_living: dict[int, bool]) -> Iterator[str]:
    for number, state in journal.voices.items():
        lives = bool(is_living.get(number, False))
        if state is State.DELETING:
            journal.voices[number] = State.KEPT if lives else State.DELETED
        elif lives != (state is State.KEPT):
            yield f"voice {number} is {state}, and the table says it is {lives=}"
