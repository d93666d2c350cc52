"""Where the databases of these tests are, and what they think of a query."""

from dataclasses import dataclass

from sqlalchemy import text

from qwen3_audio.store.db import Database, open_database

SECRET = b"a secret of the tests, not more"


@dataclass(frozen=True)
class Place:
    """Where a database is, or will be."""

    kind: str
    url: str

    def open(self) -> Database:
        return open_database(self.url)


def explain(db: Database, query: str) -> str:
    """The plan, with all else made expensive so that empty tables show their indexes."""
    with db.read() as conn:
        if not db.is_sqlite:
            for other in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
                conn.execute(text(f"SET LOCAL {other} = off"))
        words = "EXPLAIN QUERY PLAN" if db.is_sqlite else "EXPLAIN"
        return "\n".join(str(row) for row in conn.execute(text(f"{words} {query}")))
