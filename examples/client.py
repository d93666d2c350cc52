"""Everything that the multi-user server can do, from Python.

    python examples/client.py recording.wav "What is said in it"

Reads BASE (http://localhost:8000), API_KEY, or ADMIN_TOKEN to make a user with a key first.
"""

import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx2


class Client:
    """The routes of the server as methods; errors are raised with the server's own words."""

    def __init__(self, base: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx2.Client(base_url=base, headers=headers, timeout=600)

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        reply = self.http.request(method, path, **options)
        if not reply.is_success:
            raise SystemExit(f"{method} {path}: {reply.json()['detail']}")
        return reply

    def new_user(self) -> str:
        """For the admin: a user and an invite for it."""
        user_id = self.call("POST", "/admin/users").json()["user_id"]
        return str(self.call("POST", f"/admin/users/{user_id}/invites").json()["invite_code"])

    def exchange(self, code: str) -> str:
        body = {"invite_code": code}
        return str(self.call("POST", "/auth/exchange-invite", json=body).json()["api_key"])

    def clone(self, file: Path, *, name: str, transcript: str) -> int:
        data = {"name": name, "transcript": transcript}
        files = {"file": (file.name, file.read_bytes())}
        return int(self.call("POST", "/clonevoice", data=data, files=files).json()["voice_id"])

    def design(self, *, name: str, description: str) -> int:
        body = {"name": name, "description": description}
        return int(self.call("POST", "/designvoice", json=body).json()["voice_id"])

    def voices(self) -> list[dict[str, Any]]:
        return list(self.call("GET", "/voices").json())

    def voice(self, voice_id: int) -> dict[str, Any]:
        return dict(self.call("GET", f"/voices/{voice_id}").json())

    def sample(self, voice_id: int) -> bytes:
        return self.call("GET", f"/voices/{voice_id}/sample").content

    def delete_voice(self, voice_id: int) -> None:
        self.call("POST", f"/voices/{voice_id}/delete")

    def tts(self, text: str, voice_id: int, **more: Any) -> tuple[bytes, int]:
        """The sound, and the number to ask for it again if `store=True`."""
        reply = self.call("POST", "/tts", json={"text": text, "voice_id": voice_id, **more})
        return reply.content, int(reply.headers["X-Generation-Id"])

    def batch(self, texts: list[str], voice_id: int, **more: Any) -> dict[str, bytes]:
        body = {"texts": texts, "voice_id": voice_id, **more}
        reply = self.call("POST", "/batchtts", json=body)
        with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def stored(self, generation_id: int) -> bytes:
        return self.call("GET", f"/getstored/{generation_id}").content

    def usage(self) -> dict[str, Any]:
        return dict(self.call("GET", "/usage").json())


def main() -> None:
    recording, said = Path(sys.argv[1]), sys.argv[2]
    base = os.environ.get("BASE", "http://localhost:8000")
    key, admin_token = os.environ.get("API_KEY"), os.environ.get("ADMIN_TOKEN")
    if key is None and admin_token:
        key = Client(base).exchange(Client(base, admin_token).new_user())
    client = Client(base, key)
    voice_id = client.clone(recording, name="Geoff", transcript=said)
    print("voice:", client.voice(voice_id)["name"], "of", len(client.voices()))
    Path("voice_sample.wav").write_bytes(client.sample(voice_id))
    sound, number = client.tts("Hello from the TTS server.", voice_id, store=True)
    Path("out.wav").write_bytes(sound)
    print("stored as it was:", client.stored(number) == sound)
    print("batch:", ", ".join(client.batch(["First line.", "Second line."], voice_id)))
    client.delete_voice(voice_id)
    print("tokens used:", client.usage()["tokens_used_total"])


if __name__ == "__main__":
    main()
