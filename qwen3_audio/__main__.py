"""`python -m qwen3_audio` is the `qwen3-audio` command."""

from qwen3_audio.cli import main

main()
