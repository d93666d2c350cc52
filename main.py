"""`python main.py` is `qwen3-audio serve`."""

import sys

from qwen3_audio.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
