"""Writes down recordings while they are recognised; several at once share the model's steps.

Usage: BASE=http://localhost:8000 python transcribe.py RECORDING...
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

BASE = os.environ.get("BASE", "http://localhost:8000")


def transcribe(recording: Path) -> str:
    """The text of a recording; the pieces are printed as they become final."""
    with (
        recording.open("rb") as file,
        requests.post(
            f"{BASE}/v1/audio/transcriptions",
            data={"stream": "true"},
            files={"file": file},
            stream=True,
            timeout=3600,
        ) as answer,
    ):
        if not answer.ok:
            return f"not transcribed: {answer.json()['error']['message']}"
        for line in answer.iter_lines():
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if event.get("type") == "transcript.text.delta":
                sys.stdout.write(f"{recording.name} … {event['delta']}\n")  # whole, from any thread
            if event.get("type") == "transcript.text.done":
                return str(event["text"])
            if "error" in event:
                return f"broke off: {event['error']['message']}"
    return "broke off"


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    recordings = [Path(name) for name in sys.argv[1:]]
    with ThreadPoolExecutor(8) as pool:
        for recording, text in zip(recordings, pool.map(transcribe, recordings), strict=True):
            print(f"{recording.name}: {text}")


if __name__ == "__main__":
    main()
