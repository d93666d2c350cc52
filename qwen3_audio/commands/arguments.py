"""What several commands read from their arguments."""

import argparse
from collections.abc import Sequence

from qwen3_audio.assembly import choose_checkpoints
from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.settings import Settings

OPTIONS = {
    "host": "HOST",
    "port": "PORT",
    "device": "QWEN_TTS_DEVICE",
    "dtype": "QWEN_TTS_DTYPE",
}


def read_settings(arguments: argparse.Namespace) -> Settings:
    """The environment with the command line's options over it."""
    given = {variable: getattr(arguments, name, None) for name, variable in OPTIONS.items()}
    if getattr(arguments, "require_gpu", False):
        given["REQUIRE_GPU"] = "true"
    return Settings.from_env(options={name: text for name, text in given.items() if text})


def read_checkpoints(arguments: argparse.Namespace, settings: Settings) -> Sequence[Checkpoint]:
    """The checkpoints that --demo, --model-path and the variables name."""
    return choose_checkpoints(settings, arguments.model_path, is_demo=arguments.demo)
