"""What the images and compose.yml promise, read without Docker; entrypoint.sh is run."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from fake_hub import FakeHub, run_hub
from live_process import clean_environment, run_program

from qwen3_audio.settings import VARIABLES, Settings

ROOT = Path(__file__).parent.parent
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
DOCUMENT = ROOT / "tests/documents/multi_user_tts_server.md"
PLACES = {"MODELS_DIR": "/app/models", "DATA_DIR": "/app/data"}

by_image = pytest.mark.parametrize("image", DOCKERFILES)


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.M)
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.split("\n"))]


def arguments(name: str, word: str) -> str:
    """Of the last instruction that begins with this word."""
    return [rest for found, rest in instructions(name) if found == word][-1]


def environment(name: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(arguments(name, "ENV")))


def copied(name: str) -> set[str]:
    """What of the repository is in the image."""
    lines = [rest.split() for found, rest in instructions(name) if found == "COPY"]
    return {source for *sources, _ in lines for source in sources}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def service(compose: dict[str, Any]) -> dict[str, Any]:
    (only,) = compose["services"].values()
    return dict(only)


def test_compose_builds_the_cuda_image_and_asks_for_a_gpu(service: dict[str, Any]) -> None:
    assert service["build"] == {"context": ".", "dockerfile": "Dockerfile.cuda"}
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_compose_mounts_models_and_data_where_the_image_looks(
    compose: dict[str, Any], service: dict[str, Any]
) -> None:
    mounts = dict(volume.split(":") for volume in service["volumes"])
    assert sorted(mounts.values()) == sorted(PLACES.values())
    assert set(mounts) == set(compose["volumes"])  # Docker makes them with the image's owner
    assert json.loads(arguments("Dockerfile.cuda", "VOLUME")) == sorted(
        PLACES.values(), reverse=True
    )


def test_compose_opens_the_port_that_the_server_takes(service: dict[str, Any]) -> None:
    assert service["ports"] == ["${PORT:-8000}:8000"]
    assert not {"PORT", "HOST"} & set(service["environment"])
    assert (Settings().host, Settings().port) == ("0.0.0.0", 8000)
    assert arguments("Dockerfile.cuda", "EXPOSE") == "8000"


def test_compose_hands_down_settings_that_exist(service: dict[str, Any]) -> None:
    for name, value in service["environment"].items():
        assert name in VARIABLES
        assert re.fullmatch(rf"\$\{{{name}:-[^}}]*\}}", value), name
    defaults = {name: value[:-1].split(":-")[1] for name, value in service["environment"].items()}
    settings = Settings.from_env(defaults)  # an empty one is as good as none
    assert settings.model_base_repo == "Qwen/Qwen3-TTS-12Hz-1.7B-Base"
    assert settings.model_custom_repo == "Qwen/Qwen3-TTS-12Hz-1.7B-VoiceDesign"
    assert settings.is_local  # until entrypoint.sh makes a token


def test_compose_starts_with_the_entry_point_in_the_image(service: dict[str, Any]) -> None:
    assert service["entrypoint"] == ["sh", "/app/entrypoint.sh"]
    assert service["command"] == []
    assert arguments("Dockerfile.cuda", "WORKDIR") == "/app"


@by_image
def test_images_hold_what_they_start(image: str) -> None:
    assert copied(image) >= {"qwen3_audio", "main.py", "server.py", "entrypoint.sh"}
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in let_through
    assert {f"!{name}" for name in copied(image)} <= set(let_through)
    assert environment(image).items() >= PLACES.items()
    assert set(environment(image)) - set(VARIABLES) <= {
        *("PYTHONUNBUFFERED", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")
    }
    assert json.loads(arguments(image, "ENTRYPOINT")) == ["qwen3-audio"]
    assert json.loads(arguments(image, "CMD")) == ["serve"]
    assert arguments(image, "USER") == "1000"


@by_image
def test_images_have_the_compiler_that_the_first_start_needs(image: str) -> None:
    """For the processor's kernels, and for the launchers of Triton's."""
    steps = instructions(image)
    (number,) = [
        at for at, (word, rest) in enumerate(steps) if (word, "apt" in rest) == ("RUN", True)
    ]
    installed = shlex.split(steps[number][1].split("&&")[1])
    assert installed[:2] == ["apt-get", "install"]
    assert {"gcc", "libc6-dev"} <= set(installed)
    assert number < steps.index(("USER", "1000"))


def test_every_requirement_of_the_images_has_its_exact_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["postgres"]]
    names = {re.split(r"[\[<>=]", line)[0] for line in needed}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if not line.startswith("#")}
    assert names <= pinned


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server.server_address[1]
        server.shutdown()


@by_image
def test_the_health_check_asks_the_server_and_nobody_else(image: str, port: int) -> None:
    """A proxy for all of the machine's containers must not be asked for what runs inside one."""
    check = arguments(image, "HEALTHCHECK")
    command = [sys.executable, *json.loads(check.partition(" CMD ")[2])[1:]]
    env = clean_environment(PORT=str(port), http_proxy="http://127.0.0.1:9")
    assert subprocess.run(command, env=env, check=False).returncode == 0
    done = subprocess.run(command, env=env | {"PORT": "1"}, capture_output=True, check=False)
    assert done.returncode != 0


def test_the_documents_variables_have_the_documents_defaults() -> None:
    part = DOCUMENT.read_text().split("## Configuration")[1].split("\n## ")[0]
    rows = re.findall(r"`([A-Z_]+)` \((?:default `([^`]+)`)?", part)
    assert len(rows) == 8
    in_image = environment("Dockerfile.cuda")
    for name, default in rows:
        assert name in VARIABLES
        if default:
            assert in_image.get(name, str(getattr(Settings(), name.lower()))) == default


# entrypoint.sh

START = ["sh", str(ROOT / "entrypoint.sh")]
PROGRAM = """#!/bin/sh
echo "$$"
echo "$ADMIN_TOKEN"
for argument in "$@"; do echo "$argument"; done
exit 7
"""


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A PATH on which `qwen3-audio` says what it was given."""
    program = tmp_path / "bin/qwen3-audio"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return os.pathsep.join((str(program.parent), str(Path(sys.executable).parent), os.defpath))


def enter(programs: str, data: Path, *more: str, **env: str) -> tuple[str, list[str], str]:
    """The token and the arguments that the program got, and what entrypoint.sh said."""
    process = subprocess.Popen(
        [*START, *more],
        env={"PATH": programs, "DATA_DIR": str(data), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate()
    assert process.returncode == 7, err
    number, token, *given = out.splitlines()
    assert int(number) == process.pid  # signals reach the program, no shell stands between
    return token, given, err


def test_an_admin_token_is_made_once_kept_and_shown_once(programs: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    token, given, said = enter(programs, data)
    assert len(token) >= 40
    assert given == ["serve"]
    assert said.count(token) == 1
    file = data / "admin-token"
    assert file.read_text().strip() == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert enter(programs, data) == (token, ["serve"], "")
    assert enter(programs, tmp_path / "other data")[0] != token


def test_half_a_token_of_a_killed_start_is_made_anew(programs: str, tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text("")
    (tmp_path / "admin-token.new").write_text("half")
    token, _, said = enter(programs, tmp_path)
    assert token in said
    assert "half" not in token
    assert [path.name for path in tmp_path.glob("admin-token*")] == ["admin-token"]


@pytest.mark.parametrize("token", ["one of my own", "none"])
def test_a_token_that_is_given_counts_and_none_is_made(
    programs: str, tmp_path: Path, token: str
) -> None:
    assert enter(programs, tmp_path, ADMIN_TOKEN=token) == (token, ["serve"], "")
    assert not (tmp_path / "admin-token").exists()


def test_further_arguments_reach_serve_as_they_are(programs: str, tmp_path: Path) -> None:
    more = ("--model-path", "a folder/*", "")
    assert enter(programs, tmp_path, *more)[1] == ["serve", *more]


@pytest.mark.slow
def test_the_entry_point_downloads_what_is_missing_and_serves_with_the_token(
    tiny_tts: Path, tmp_path: Path
) -> None:
    base = tiny_tts / "tiny-Base"
    paths = [path for path in base.rglob("*") if path.is_file()]
    files = {str(path.relative_to(base)): path.read_bytes() for path in paths}
    env = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MODEL_BASE_REPO": "me/voices",
        "HF_TOKEN": "hf_mine",
        "MODELS_DIR": str(tmp_path / "models"),
        "DATA_DIR": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    with (
        run_hub(FakeHub("me/voices", files, token="hf_mine")) as hub,
        run_program(START, tmp_path, **env, HF_ENDPOINT=hub.endpoint) as server,
    ):
        assert f"base from {tmp_path}/models/voices" in server.what
        (line,) = [line for line in server.lines if line.startswith("Admin token")]
        headers = {"Authorization": f"Bearer {line.rpartition(' ')[2]}"}
        assert httpx2.post(f"{server.address}/admin/users", headers=headers).is_success
        assert httpx2.get(f"{server.address}/voices", headers=headers).status_code == 401
        assert server.stop(signal.SIGTERM) == 0
