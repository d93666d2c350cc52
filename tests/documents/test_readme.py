"""Every code block of the README and of docs/api.md that can run here does run."""

import json
import re
from pathlib import Path

import httpx2
import pytest
from code_blocks import ROOT, Block, read_blocks, run_text
from live_process import LiveProcess
from test_document_examples import START, by_name, check_sound

from training.world.words import normalise

README = read_blocks(ROOT / "README.md")
API = read_blocks(ROOT / "docs/api.md")
PYTHON = [block for block in README if block.language == "python"]
COMMANDS = [block for block in README if re.match("uv run qwen3-audio say", block.text)]
LINES_OF_DOCUMENTS = [block for block in README if block.text in {start.text for start in START}]
NOT_RUN = {
    "Start": "run by .ci/run",
    "Start #2": "run by .ci/run, and it is what runs this",
    "The parts": "a picture",
    "Models": "a download",
    "Models #2": "a download",
    "Start with models #3": "run with the document that it is from",
    "Preparing a reference": "the ffmpeg program",
    "GPU": "minutes, and a GPU: tests/benchmarks/test_gpu_check.py runs it on a CPU",
    "Docker": "Docker",
    "Docker #2": "Docker with a GPU",
    "Users and keys": "needs a server with ADMIN_TOKEN: tests/web/test_accounts.py",
    "Users and keys #2": "commands: tests/test_admin_command.py",
}
CURL = [
    block
    for block in (*README, *API)
    if block.text.startswith("curl ") and block.name not in NOT_RUN
]

SAID = re.compile(r'"?input(?:": "|=)(.+?)"')
SPOKEN = [block for block in CURL if block in README and SAID.search(block.text)]


def test_every_block_of_the_readme_is_run_or_listed_as_not_run() -> None:
    run = [block.name for block in (*CURL, *PYTHON, *COMMANDS, *LINES_OF_DOCUMENTS)]
    listed = {*run, *NOT_RUN}
    assert {block.name for block in README} <= listed
    assert set(NOT_RUN) <= {block.name for block in README}
    assert len(LINES_OF_DOCUMENTS) == 2


@pytest.mark.curl
@pytest.mark.parametrize("block", CURL, ids=by_name)
def test_curl_lines_run(block: Block, live: LiveProcess, folder: Path) -> None:
    answer = run_text(block.at(live.address), "bash", folder)
    if block.output_name:
        check_sound(folder / block.output_name)
    elif "stream=true" in block.text:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.splitlines() if line]
        assert events[-1]["type"] == "transcript.text.done"
    elif "response_format=text" not in block.text:
        assert "error" not in json.loads(answer)


@pytest.mark.slow
@pytest.mark.curl
def test_the_first_example_says_what_it_hears(demo: LiveProcess, folder: Path) -> None:
    (block,) = (block for block in CURL if "morning.mp3" in block.text)
    (said,) = re.findall(r'"input": "(.*?)"', block.text)
    heard = run_text(block.at(demo.address), "bash", folder)
    assert normalise(heard) == normalise(said)
    assert f"`{said}`" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.curl
@pytest.mark.parametrize("block", SPOKEN, ids=by_name)
def test_what_the_readme_lets_a_server_say_is_heard(
    block: Block, demo: LiveProcess, folder: Path
) -> None:
    assert block.output_name is not None
    (said,) = SAID.findall(block.text)
    run_text(block.at(demo.address), "bash", folder)
    with (folder / block.output_name).open("rb") as file:
        reply = httpx2.post(f"{demo.address}/v1/audio/transcriptions", files={"file": file})
    spoken, heard = set(normalise(said).split()), set(normalise(reply.json()["text"]).split())
    assert len(spoken & heard) >= 0.7 * len(spoken), heard


@pytest.mark.parametrize("block", PYTHON, ids=by_name)
def test_python_lines_run(block: Block, live: LiveProcess, folder: Path) -> None:
    run_text(block.at(live.address), "python", folder)
    check_sound(folder / "speech.mp3")


@pytest.mark.slow
@pytest.mark.uv
@pytest.mark.parametrize("block", COMMANDS, ids=by_name)
def test_commands_run(block: Block, folder: Path, cache: Path) -> None:
    said = run_text(block.text, "bash", folder, XDG_CACHE_HOME=str(cache), PORT="0")
    check_sound(folder / "morning.wav")
    assert said.startswith("morning.wav: ")
    assert "It would start" in said
