"""`qwen3-audio download ID...`"""

import argparse
import logging
import sys

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.errors import StartError
from qwen3_audio.hub import download
from qwen3_audio.settings import Settings

log = logging.getLogger("qwen3_audio")


def run(arguments: argparse.Namespace) -> int:
    """Fetch each id; 1 if one of them failed, after the others were tried."""
    settings = Settings.from_env()
    failed = False
    for repo_id in arguments.ids:
        try:
            if repo_id.count("/") != 1:
                raise StartError(f"{repo_id} is no hub id; they look like Qwen/Qwen3-ASR-0.6B")
            checkpoint = open_checkpoint(download(repo_id, settings, log.info))
            print(f"{checkpoint.folder}: {checkpoint.kind}, complete")
        except StartError as error:
            print(f"qwen3-audio: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0
