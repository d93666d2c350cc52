"""`qwen3-audio admin` and `qwen3-audio db`: the routes' answers, from the machine itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen3_audio import accounts
from qwen3_audio.cli import build_parser, run
from qwen3_audio.store.opening import open_store

Command = Callable[..., int]
Ask = Callable[..., Any]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command on a new data folder; its exit code."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return lambda *words: run(build_parser().parse_args([str(word) for word in words]))


@pytest.fixture
def ask(command: Command, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The answer of a command that must succeed."""

    def answer(*words: object) -> Any:
        assert command("admin", *words) == 0
        return json.loads(capsys.readouterr().out)

    return answer


def test_users_are_made_changed_disabled_and_deleted(ask: Ask) -> None:
    user_id = ask("users", "add", "--name", "Alice", "--max-tokens-per-day", 100)["user_id"]
    freed = ask("users", "change", user_id, "--max-tokens-per-day", "unlimited")
    assert (freed["name"], freed["max_tokens_per_day"]) == ("Alice", None)
    limited = ask("users", "change", user_id, "--max-requests-at-once", 2, "--name", "")
    assert (limited["name"], limited["max_requests_at_once"]) == (None, 2)
    assert ask("users", "disable", user_id) == {"status": "disabled"}
    assert ask("users", "show", user_id)["disabled_at"] is not None
    assert ask("users", "enable", user_id) == {"status": "enabled"}
    assert ask("users", "usage", user_id)["tokens_used_total"] == 0
    assert [user["user_id"] for user in ask("users", "list", "--after", 1)["data"]] == [user_id]
    assert ask("users", "delete", user_id) == {"status": "deleted"}
    assert [user["user_id"] for user in ask("users", "list")["data"]] == [1]


def test_an_invite_made_here_is_good_for_the_server(ask: Ask, tmp_path: Path) -> None:
    code = ask("invites", "add", 1, "--expires-hours", 2)["invite_code"]
    store = open_store(f"sqlite:///{tmp_path}/qwen3-audio.db", tmp_path)
    key = accounts.exchange_invite(store, code)
    store.close()
    (row,) = ask("keys", "list", 1)["data"]
    assert row["key_prefix"] == key["key_prefix"]
    assert ask("keys", "revoke", 1, row["key_id"]) == {"status": "revoked"}
    ask("invites", "add", 1)
    newest, used = ask("invites", "list", 1)["data"]
    assert used["used_at"] is not None
    assert ask("invites", "revoke", 1, newest["invite_id"]) == {"status": "revoked"}


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["users", "show", "9"], 1, "There is no user 9"),
        (["users", "show", "-1"], 1, "There is no user -1"),
        (["keys", "list", "9" * 30], 1, "There is no user 9"),
        (["users", "delete", "1"], 2, "can only be disabled"),
        (["users", "add", "--max-tokens-per-day", "many"], 2, "--max-tokens-per-day must be"),
        (["invites", "add", "1", "--expires-hours", "0"], 2, "expires_hours must be from 1"),
        (["users", "add", "--name", " "], 2, "name must not be blank"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_trouble_is_one_sentence(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    sentence: str,
) -> None:
    assert command("admin", *words) == code
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_the_database_is_made_checked_and_copied(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("db", "check") == 2
    assert "does not exist" in capsys.readouterr().err
    assert command("db", "upgrade") == 0
    assert command("db", "check") == 0
    assert "is sound" in capsys.readouterr().out
    assert command("db", "backup", tmp_path / "copy.db") == 0
    assert (tmp_path / "copy.db").stat().st_size > 0
    assert command("db", "backup", tmp_path / "copy.db") == 2
    assert "exists already" in capsys.readouterr().err
