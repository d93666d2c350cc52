"""Document 2's commands and pipes, as they stand there, on both databases.

Only scheme, host and port differ; one shell runs all of it, so that its variables are as the
document fills them.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from live_process import LiveProcess
from multi_user import (
    ADMIN_TOKEN,
    BATCH,
    BLOCKS,
    CREATE,
    DESIGN,
    EXCHANGE,
    HELLO,
    INVITE,
    LINES,
    LIST,
    NOT_RUN,
    RUN,
    STORED,
    TRANSCRIPT,
    TTS,
    USAGE,
    Walk,
    walk_through,
)
from test_document_examples import check_sound

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.types import SPEECH_RATE_HZ
from qwen3_audio.voice_library import COVERAGE_PHRASE

DESCRIPTION = "Warm, calm narrator voice. Slightly husky. Friendly."
pytestmark = [pytest.mark.curl, pytest.mark.file, pytest.mark.unzip]
STARTS = [
    "on_sqlite",
    pytest.param("on_postgres", marks=[pytest.mark.postgres, pytest.mark.slow]),
    pytest.param("in_two_processes", marks=[pytest.mark.postgres, pytest.mark.slow]),
]


@pytest.fixture(scope="module", params=STARTS)
def walk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mp3: Path
) -> Walk:
    """The document, run once with each way to start a server."""
    server: LiveProcess = request.getfixturevalue(request.param)
    return walk_through(server.address, tmp_path_factory.mktemp("walk"), mp3)


def parse_all(text: str) -> list[Any]:
    """JSON values that stand one after another."""
    decoder, values, text = json.JSONDecoder(), [], text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].strip()
    return values


def shown_headers(text: str) -> tuple[dict[str, str], str]:
    """The lines of `sed -n 's/^X-//p'`, and what stands behind them."""
    names = dict(re.findall(r"^([A-Z][A-Za-z-]+): (\S+)\r?$", text, re.M))
    return names, re.sub(r"^[A-Z][A-Za-z-]+: \S+\r?\n", "", text, flags=re.M)


def test_every_block_is_run_or_listed_as_not_run() -> None:
    assert [name for name in BLOCKS if name not in NOT_RUN] == list(RUN)
    assert set(NOT_RUN) <= set(BLOCKS)
    assert sum(block.text.count("curl ") for block in BLOCKS.values()) == 12


def test_the_admin_makes_a_user_and_never_sees_the_key(walk: Walk) -> None:
    user_id = int(walk.value(CREATE, "USER_ID"))
    code, key = walk.value(INVITE, "INVITE_CODE"), walk.value(EXCHANGE, "API_KEY")
    users = walk.ask("GET", "/admin/users", token=ADMIN_TOKEN)
    assert user_id in [row["user_id"] for row in users.json()["data"]]
    keys = walk.ask("GET", f"/admin/users/{user_id}/keys", token=ADMIN_TOKEN)
    assert key not in keys.text
    assert key.startswith(keys.json()["data"][0]["key_prefix"])
    again = walk.ask("POST", "/auth/exchange-invite", json={"invite_code": code})
    assert again.status_code == 403
    assert walk.ask("POST", "/admin/users").status_code == 403


def test_the_cloned_voice_is_the_recording(walk: Walk) -> None:
    sample = walk.ask("GET", f"/voices/{walk.voice_id}/sample")
    assert sample.content == (walk.folder / "voice_sample.wav").read_bytes()
    assert sample.headers["Content-Type"] == "audio/wav"
    assert unquote(sample.headers["X-Transcript"]) == TRANSCRIPT
    assert seconds(sample.content) == seconds((walk.folder / "ref.mp3").read_bytes())


def seconds(data: bytes) -> float:
    samples = decode_audio(data, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=600)
    return round(len(samples) / SPEECH_RATE_HZ, 2)


def test_the_designed_voice_costs_description_and_phrase(walk: Walk) -> None:
    (made,) = parse_all(walk.said[DESIGN])
    assert made["tokens_used"] == len(DESCRIPTION) + len(COVERAGE_PHRASE)
    designed = walk.ask("GET", f"/voices/{made['voice_id']}").json()
    assert designed["voice_description"] == DESCRIPTION
    assert designed["ref_text"] == COVERAGE_PHRASE


def test_both_voices_are_listed_newest_first(walk: Walk) -> None:
    voices, geoff = parse_all(walk.said[LIST])
    assert [voice["name"] for voice in voices] == ["warm_narrator", "Geoff"]
    assert set(voices[1]) >= {"name", "voice_id", "created_at", "use_count"}
    assert voices[1].items() <= geoff.items()
    assert (geoff["voice_id"], geoff["ref_text"]) == (walk.voice_id, TRANSCRIPT)


def test_a_text_is_spoken_with_its_headers_and_not_kept(walk: Walk) -> None:
    headers, rest = shown_headers(walk.said[TTS])
    assert headers["Tokens-Used"] == str(len(HELLO))
    assert int(headers["Latency-Ms"]) > 0
    assert rest.startswith("out.wav: RIFF (little-endian) data, WAVE audio")
    check_sound(walk.folder / "out.wav")
    number = headers["Generation-Id"]
    assert walk.ask("GET", f"/getstored/{number}").status_code == 404
    booked = walk.ask("GET", f"/generations/{number}").json()
    assert (booked["text"], booked["tokens_used"]) == (None, len(HELLO))
    assert booked["latency_ms"] == int(headers["Latency-Ms"])


def test_texts_come_as_a_zip_with_a_manifest_for_less(walk: Walk) -> None:
    headers, rest = shown_headers(walk.said[BATCH])
    listing, _, manifest = rest.partition("{")
    names = ["0.wav", "1.wav", "2.wav"]
    assert all(name in listing for name in (*names, "manifest.json"))
    told = json.loads("{" + manifest)
    assert [item["filename"] for item in told["items"]] == names
    assert len(told["generation_ids"]) == len(set(told["generation_ids"])) == 3
    assert headers["Batch-Id"] == str(told["batch_id"])
    assert headers["Tokens-Used"] == str(told["tokens_used"])
    assert 0 < told["tokens_used"] < sum(map(len, LINES))
    assert headers["Batch-Discount-Used"] == f"{told['batch_discount_used']:g}"
    with zipfile.ZipFile(walk.folder / "batch.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(walk.folder, names)
    for name in names:
        check_sound(walk.folder / name)


def test_a_stored_generation_is_the_same_bytes(walk: Walk) -> None:
    assert walk.said[STORED] == ""
    stored = (walk.folder / "stored.wav").read_bytes()
    assert stored == (walk.folder / "kept.wav").read_bytes()
    check_sound(walk.folder / "stored.wav")
    headers = (walk.folder / "kept_headers.txt").read_text()
    number = re.search(r"^X-Generation-Id: (\d+)", headers, re.M)
    assert number
    assert walk.ask("GET", f"/generations/{number[1]}").json()["text"] == HELLO


def test_usage_is_the_sum_of_all_that(walk: Walk) -> None:
    (usage,) = parse_all(walk.said[USAGE])
    manifest = json.loads("{" + walk.said[BATCH].partition("{")[2])
    voices = len(TRANSCRIPT) + len(DESCRIPTION) + len(COVERAGE_PHRASE)
    assert usage["voices_created"] == 2
    assert (usage["tts_calls"], usage["batch_calls"]) == (2, 1)
    assert usage["tokens_used_tts"] == 2 * len(HELLO)
    assert usage["tokens_used_batch"] == manifest["tokens_used"]
    assert usage["tokens_used_total"] == (
        voices + usage["tokens_used_tts"] + usage["tokens_used_batch"]
    )


@pytest.mark.parametrize(("name", "start"), [("wav", b"RIFF"), ("mp3", b"\xff"), ("ogg", b"OggS")])
def test_every_format_of_the_document_is_what_it_says(walk: Walk, name: str, start: bytes) -> None:
    body = {"text": "Hello.", "voice_id": walk.voice_id, "format": name, "max_new_tokens": 8}
    reply = walk.ask("POST", "/tts", json=body)
    assert reply.content.startswith(start)
    assert seconds(reply.content) > 0
    types = {"wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg"}
    assert reply.headers["Content-Type"] == types[name]


def test_the_documented_addresses_answer_without_a_key(walk: Walk) -> None:
    for path in ("/health", "/ready", "/docs"):
        assert httpx2.get(f"{walk.address}{path}").status_code == 200
    for path in ("/voices", "/usage", "/getstored/1"):
        assert httpx2.get(f"{walk.address}{path}").status_code == 401


def test_a_deleted_voice_is_gone_and_another_users_was_never_there(walk: Walk) -> None:
    user_id = walk.ask("POST", "/admin/users", token=ADMIN_TOKEN).json()["user_id"]
    invites = f"/admin/users/{user_id}/invites?expires_hours=24"
    code = walk.ask("POST", invites, token=ADMIN_TOKEN).json()["invite_code"]
    key = walk.ask("POST", "/auth/exchange-invite", json={"invite_code": code}).json()["api_key"]
    data = {"name": "Geoff", "transcript": TRANSCRIPT}
    files = {"file": ("ref.mp3", (walk.folder / "ref.mp3").read_bytes())}
    voice_id = walk.ask("POST", "/clonevoice", token=key, data=data, files=files).json()["voice_id"]
    address = f"/voices/{voice_id}"
    assert walk.ask("POST", f"{address}/delete").status_code == 404
    assert walk.ask("POST", f"{address}/delete", token=key).json() == {"status": "deleted"}
    assert walk.ask("GET", address, token=key).status_code == 404
    # The same recording, which the document's user keeps too, stays theirs.
    assert walk.ask("GET", f"/voices/{walk.voice_id}/sample").status_code == 200
