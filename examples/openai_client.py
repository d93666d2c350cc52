"""OpenAI's own client against this server: speech into a file, and a recording into text.

Usage: BASE=http://localhost:8000 python openai_client.py [RECORDING]
"""

import os
import sys

from openai import OpenAI

BASE = os.environ.get("BASE", "http://localhost:8000")


def main() -> None:
    # A server without keys takes any; the client insists on having one.
    client = OpenAI(base_url=f"{BASE}/v1", api_key="none")

    speech = client.audio.speech.create(
        model="qwen3-tts",
        voice="alloy",
        input="Hello, this is Qwen3-TTS behind OpenAI's client.",
        response_format="wav",
    )
    speech.write_to_file("openai.wav")
    print("openai.wav:", len(speech.content), "bytes")

    recording = sys.argv[1] if len(sys.argv) > 1 else "openai.wav"
    with open(recording, "rb") as file:
        transcript = client.audio.transcriptions.create(
            model="qwen3-asr", file=file, response_format="verbose_json"
        )
    print(f"{recording} ({transcript.duration} s):", transcript.text)


if __name__ == "__main__":
    main()
