"""How much of a kind one user may keep; asked after adding, in the same transaction."""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from qwen3_audio.errors import LimitReached
from qwen3_audio.store.tables import users

SPENT = "insufficient_quota"  # waiting does not help


@dataclass(frozen=True, slots=True)
class Caps:
    """Of things and of their bytes; None: unlimited."""

    max_number: int | None = None
    max_bytes: int | None = None


UNLIMITED = Caps()


def take_turn(conn: Connection, user_id: int) -> None:
    """Until this transaction ends, nobody else adds to what this user has.

    So two at once can't both be the last one allowed. Behind the locks of blobs.
    """
    one = select(users.c.user_id).where(users.c.user_id == user_id)
    conn.execute(one.with_for_update(key_share=True))


def check_caps(caps: Caps, *, what: str, number: int, num_bytes: int = 0) -> None:
    """LimitReached if a user now has more than that; `what` they are, in the plural."""
    if caps.max_number is not None and number > caps.max_number:
        raise LimitReached(
            f"You have {caps.max_number} {what}, as many as are allowed; delete one first",
            code=SPENT,
        )
    if caps.max_bytes is not None and num_bytes > caps.max_bytes:
        raise LimitReached(
            f"Your {what} would take {num_bytes} bytes and {caps.max_bytes} are allowed;"
            " delete one first",
            code=SPENT,
        )
