"""`qwen3-audio make-tiny FOLDER`"""

import argparse

from qwen3_audio.errors import StartError


def run(arguments: argparse.Namespace) -> int:
    """Write one tiny random checkpoint of each kind into a new or empty folder."""
    from qwen3_audio.random_weights.tiny import write_tiny_checkpoints

    home = arguments.folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        if any(home.iterdir()):
            raise StartError(f"{home} is not empty; name a new folder")
        folders = write_tiny_checkpoints(home, seed=arguments.seed)
    except OSError as error:
        raise StartError(f"Can't write to {home}: {error.strerror}") from None
    for folder in folders:
        print(folder)
    return 0
