"""The secret without which a stolen database gives away no key: made at the first start."""

import contextlib
import os
import secrets
from pathlib import Path

from qwen3_audio.errors import StartError

FILE_NAME = "hmac-secret"
MIN_SECRET_CHARS = 16


def load_secret(data_dir: Path, given: str | None = None) -> bytes:
    """HMAC_SECRET if given, else the one in the data folder, made (mode 600) if there is none.

    StartError if it is too weak, or can't be read or made.
    """
    if given is not None:
        return _checked(given.encode(), "HMAC_SECRET")
    path = data_dir / FILE_NAME
    try:
        if not path.exists():
            _make(path)
        return _checked(path.read_bytes().strip(), f"The secret in {path}")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StartError(f"The secret {path} can't be read or made: {reason}") from None


def _checked(secret: bytes, name: str) -> bytes:
    if len(secret) < MIN_SECRET_CHARS or secret.startswith(b"change-me"):
        raise StartError(
            f"{name} is no secret: it needs at least {MIN_SECRET_CHARS} characters that nobody"
            " can guess, for example from openssl rand -hex 32"
        )
    return secret


def _make(path: Path) -> None:
    """Complete or not at all; of several processes that start at once, the first one's counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as file:
        file.write(secrets.token_hex(32).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)  # unlike a rename, never replaces another's
    finally:
        unfinished.unlink()
