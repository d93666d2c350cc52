"""Everything that the multi-user server can do, from Python.

    python examples/client.py recording.wav "What is said in it" ["What a new voice is like"]

Reads BASE (http://localhost:8000), API_KEY, or ADMIN_TOKEN to make a user with a key first.
"""

import io
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2

Files = dict[str, bytes]  # by name
Manifest = dict[str, Any]


class Client:
    """The routes of the server as methods; errors are raised with the server's own words."""

    def __init__(self, base: str, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx2.Client(base_url=base, headers=headers, timeout=600)

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        reply = self.http.request(method, path, **options)
        if not reply.is_success:
            raise SystemExit(f"{method} {path}: {reply.json()['detail']}")
        return reply

    def status(self) -> tuple[str, str]:
        """`ok` and `ready`: it lives; models are loaded and the database is there."""
        health, ready = self.call("GET", "/health"), self.call("GET", "/ready")
        return health.json()["status"], ready.json()["status"]

    def create_user(self) -> int:
        return int(self.call("POST", "/admin/users").json()["user_id"])

    def invite(self, user_id: int, *, expires_hours: int = 24) -> str:
        hours = {"expires_hours": expires_hours}
        reply = self.call("POST", f"/admin/users/{user_id}/invites", params=hours)
        return str(reply.json()["invite_code"])

    def exchange(self, code: str) -> str:
        body = {"invite_code": code}
        return str(self.call("POST", "/auth/exchange-invite", json=body).json()["api_key"])

    def clone(self, file: Path, *, name: str, transcript: str, language: str = "auto") -> int:
        data = {"name": name, "transcript": transcript, "language": language}
        files = {"file": (file.name, file.read_bytes())}
        return int(self.call("POST", "/clonevoice", data=data, files=files).json()["voice_id"])

    def design(self, *, name: str, description: str, language: str = "auto") -> int:
        body = {"name": name, "description": description, "language": language}
        return int(self.call("POST", "/designvoice", json=body).json()["voice_id"])

    def voices(self) -> list[dict[str, Any]]:
        return list(self.call("GET", "/voices").json())

    def voice(self, voice_id: int) -> dict[str, Any]:
        return dict(self.call("GET", f"/voices/{voice_id}").json())

    def sample(self, voice_id: int) -> tuple[bytes, str]:
        """The reference as WAV, and what is said in it."""
        reply = self.call("GET", f"/voices/{voice_id}/sample")
        return reply.content, unquote(reply.headers["X-Transcript"])

    def delete_voice(self, voice_id: int) -> None:
        self.call("POST", f"/voices/{voice_id}/delete")

    def tts(self, text: str, voice_id: int, **more: Any) -> tuple[bytes, dict[str, int]]:
        """The sound, and its number, tokens and latency; `more`: store, language, format."""
        reply = self.call("POST", "/tts", json={"text": text, "voice_id": voice_id, **more})
        names = ("Generation-Id", "Tokens-Used", "Latency-Ms")
        return reply.content, {name: int(reply.headers[f"X-{name}"]) for name in names}

    def batch(self, texts: list[str], voice_id: int, **more: Any) -> tuple[Files, Manifest]:
        body = {"texts": texts, "voice_id": voice_id, **more}
        reply = self.call("POST", "/batchtts", json=body)
        with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        return files, json.loads(files.pop("manifest.json"))

    def stored(self, generation_id: int) -> bytes:
        return self.call("GET", f"/getstored/{generation_id}").content

    def usage(self) -> dict[str, Any]:
        return dict(self.call("GET", "/usage").json())


def main(recording: Path, transcript: str, description: str | None = None) -> None:
    base = os.environ.get("BASE", "http://localhost:8000")
    key, admin_token = os.environ.get("API_KEY"), os.environ.get("ADMIN_TOKEN")
    if key is None and admin_token:
        admin = Client(base, admin_token)
        key = admin.exchange(admin.invite(admin.create_user()))
    client = Client(base, key)
    print("server:", *client.status())
    voice_id = client.clone(recording, name="Geoff", transcript=transcript)
    if description:
        designed = client.design(name="warm_narrator", description=description)
        print("designed:", client.voice(designed)["voice_description"])
    print("voices:", ", ".join(voice["name"] for voice in client.voices()))
    sample, said = client.sample(voice_id)
    Path("voice_sample.wav").write_bytes(sample)
    print("sample:", said)
    sound, facts = client.tts("Hello from the TTS server.", voice_id, store=True)
    Path("out.wav").write_bytes(sound)
    print("spoken:", facts, "stored as it was:", client.stored(facts["Generation-Id"]) == sound)
    files, manifest = client.batch(["First line.", "Second line."], voice_id, format="ogg")
    print("batch:", ", ".join(files), "for", manifest["tokens_used"], "tokens")
    client.delete_voice(voice_id)
    print("tokens used:", client.usage()["tokens_used_total"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
