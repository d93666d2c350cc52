#!/bin/sh
# What curl can do with a server; reference.wav and audio.mp3 are recordings of yours.
# Usage: BASE=http://localhost:8000 sh curl.sh
set -eu
BASE=${BASE:-http://localhost:8000}

# Is it there, and what has it loaded?
curl -fsS "$BASE/health"
curl -fsS "$BASE/v1/models"

# A preset voice, as an mp3 file.
curl -fsS "$BASE/v1/audio/speech" \
  -H "Content-Type: application/json" \
  -d '{"input": "Hello from curl.", "voice": "Ryan", "language": "English"}' \
  -o hello.mp3

# The same seed gives the same sound again.
curl -fsS "$BASE/v1/audio/speech" \
  -H "Content-Type: application/json" \
  -d '{"input": "Hello again.", "response_format": "wav", "seed": 7}' \
  -o again.wav

# The voice of a recording, uploaded with the request.
curl -fsS "$BASE/v1/audio/speech" \
  -F "input=This sentence is spoken in another voice." \
  -F audio_sample=@reference.wav \
  -F response_format=flac \
  -o cloned.flac

# Text of a recording, then subtitles.
curl -fsS "$BASE/v1/audio/transcriptions" -F file=@audio.mp3
curl -fsS "$BASE/v1/audio/transcriptions" -F file=@audio.mp3 -F response_format=srt -o audio.srt
