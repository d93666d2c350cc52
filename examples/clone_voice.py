"""Speaks a text in the voice of a recording: 3 to 10 seconds of clear speech of one person.

Usage: BASE=http://localhost:8000 python clone_voice.py RECORDING [WHAT IS SAID IN IT]
With the transcript the voice is closer; it must match the recording. Without it, and with a
recognition model on the server, it is written down first.
"""

import os
import sys
from pathlib import Path

import requests

BASE = os.environ.get("BASE", "http://localhost:8000")
TEXT = "Now I speak in the voice of the recording."


def write_down(recording: Path) -> str:
    """What the server hears in the recording; nothing if it has no recognition model."""
    with recording.open("rb") as file:
        answer = requests.post(f"{BASE}/v1/audio/transcriptions", files={"file": file}, timeout=300)
    return answer.json()["text"] if answer.ok else ""


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    recording = Path(sys.argv[1])
    transcript = " ".join(sys.argv[2:]) or write_down(recording)
    print("In the recording:", transcript or "(unknown; the voice alone is used)")
    with recording.open("rb") as file:
        answer = requests.post(
            f"{BASE}/v1/audio/speech",
            data={"input": TEXT, "audio_sample_text": transcript, "response_format": "wav"},
            files={"audio_sample": file},
            timeout=300,
        )
    if not answer.ok:
        sys.exit(answer.json()["error"]["message"])
    Path("cloned.wav").write_bytes(answer.content)
    print("cloned.wav:", len(answer.content), "bytes, ended by", answer.headers["X-Finish-Reason"])


if __name__ == "__main__":
    main()
