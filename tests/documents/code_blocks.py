"""Code blocks of a page, with the heading above each, and bash to run them in."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from live_process import clean_environment

ROOT = Path(__file__).parent.parent.parent
DOCUMENTED_ADDRESS = re.compile(r"http://localhost:8000")
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_HEADING = re.compile(r"^(?:#+ (?P<heading>.+)|\*\*(?P<label>.+)\*\*)$", re.M)


@dataclass(frozen=True)
class Block:
    """One fenced block; `name` is its heading, numbered where a heading has several."""

    name: str
    language: str
    text: str

    @property
    def output_name(self) -> str | None:
        """The file that a curl line writes."""
        match = re.search(r"(?:--output|-o) (\S+)", self.text)
        return match[1] if match else None

    def at(self, address: str) -> str:
        """The text with this address in place of the documented one."""
        return DOCUMENTED_ADDRESS.sub(address, self.text)


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for match in _FENCE.finditer(text):
        before = _FENCE.sub("", text[: match.start()])
        heading = list(_HEADING.finditer(before))[-1]
        name = heading["heading"] or heading["label"]
        num_before = sum(block.name.split(" #")[0] == name for block in blocks)
        if num_before:
            name = f"{name} #{num_before + 1}"
        blocks.append(Block(name, match["language"], match["text"]))
    return blocks


def shell_environment(**env: str) -> dict[str, str]:
    """Where `python`, `uv run` and `qwen3-audio` mean those of these tests, offline."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    offline = {"UV_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1,localhost"}
    return clean_environment(PATH=programs, VIRTUAL_ENV=sys.prefix, **offline, **env)


def run_text(text: str, language: str, folder: Path, **env: str) -> str:
    """Standard output of a block's text, run in a folder; it must succeed."""
    program = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    done = subprocess.run(
        [*program, text],
        cwd=folder,
        env=shell_environment(**env),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
