"""Writes speech to a file while it is being made, and says when the first sound was there.

Usage: BASE=http://localhost:8000 python stream_to_file.py [TEXT] [FILE]
The file's extension is the format: mp3, opus, aac, flac, wav, pcm or ogg.
"""

import os
import sys
import time
from pathlib import Path

import requests

BASE = os.environ.get("BASE", "http://localhost:8000")


def main() -> None:
    text = sys.argv[1] if len(sys.argv) > 1 else "This sentence is written as it is spoken."
    path = Path(sys.argv[2] if len(sys.argv) > 2 else "stream.mp3")
    body = {
        "input": text,
        "response_format": path.suffix.removeprefix("."),
        "stream_format": "audio",  # mp3, opus, aac, pcm and ogg would stream without it
    }
    start_s = time.perf_counter()
    with (
        requests.post(f"{BASE}/v1/audio/speech", json=body, stream=True, timeout=300) as answer,
        path.open("wb") as file,
    ):
        if not answer.ok:
            sys.exit(answer.json()["error"]["message"])
        for number, piece in enumerate(answer.iter_content(chunk_size=None)):
            if number == 0:
                print(f"first sound after {time.perf_counter() - start_s:.2f} s")
            file.write(piece)
    print(f"{path}: {path.stat().st_size} bytes after {time.perf_counter() - start_s:.2f} s")


if __name__ == "__main__":
    main()
