"""A value → a folder: a folder as given, MODELS_DIR, the Hugging Face cache, or a download.

Only json, txt and safetensors files are fetched, each is checked by size and hash before it gets
its name, and an interrupted file goes on where it stopped. Nothing that is fetched is executed.
"""

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from qwen3_audio import __version__
from qwen3_audio.checkpoints import find_damage
from qwen3_audio.errors import StartError
from qwen3_audio.progress import Report, byte_progress
from qwen3_audio.settings import Settings

WANTED = (".json", ".txt", ".safetensors")
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Hub:
    """Where the Hugging Face library's own settings say the hub is."""

    endpoint: str
    token: str | None
    is_offline: bool


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository; large ones have a SHA-256, small ones Git's own hash."""

    name: str
    size_bytes: int
    sha256: str | None
    git_hash: str | None

    def fits(self, path: Path) -> bool:
        """True if the file there has this size and this content."""
        if not path.is_file() or path.stat().st_size != self.size_bytes:
            return False
        if self.sha256:
            return _digest(path, hashlib.sha256()) == self.sha256
        blob = hashlib.sha1(f"blob {self.size_bytes}\0".encode(), usedforsecurity=False)
        return self.git_hash is None or _digest(path, blob) == self.git_hash


def find_folder(value: str, settings: Settings, report: Report) -> Path:
    """The folder that a setting's value means; downloads it if it is nowhere on this machine.

    Raises StartError in one sentence. The folder of a hub id is complete; one given as a path is
    returned as it is.
    """
    folder = find_here(value, settings)
    if folder:
        return folder
    kept = settings.models_dir / PurePosixPath(value).name
    try:
        return download(value, settings, report)
    except StartError as error:
        damage = find_damage(kept) if kept.is_dir() else None
        raise StartError(f"{damage}; {error}" if damage else str(error)) from None


def find_here(value: str, settings: Settings) -> Path | None:
    """The same without a download: None for a hub id that is not (completely) on this machine."""
    given = Path(value).expanduser()
    if given.is_dir():
        return given
    named = settings.models_dir / PurePosixPath(value).name
    if is_hub_id(value, settings.models_dir):
        folders = [folder for folder in (named, _cached_folder(value)) if folder]
        return next((folder for folder in folders if find_damage(folder) is None), None)
    if "/" not in value and named.is_dir():
        return named
    raise StartError(f"There is no folder {value}")


def is_hub_id(value: str, models_dir: Path) -> bool:
    """True for `owner/name`, unless `owner` is the models folder itself: then it is a path."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", value, re.ASCII):
        return False
    return Path(value).parent.resolve() != models_dir.resolve()


def download(repo_id: str, settings: Settings, report: Report) -> Path:
    """Fetch what is missing of a repository into MODELS_DIR/<last part>; raises StartError."""
    hub = _hub(settings)
    if hub.is_offline:
        raise StartError(
            f"{repo_id} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it"
        )
    commit, files = _list_files(hub, repo_id)
    folder = settings.models_dir / PurePosixPath(repo_id).name
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        left = [file for file in files if not file.fits(folder / file.name)]
        _check_space(folder, left)
        with byte_progress(repo_id, sum(file.size_bytes for file in left), report) as advance:
            for file in left:
                url = f"{hub.endpoint}/{repo_id}/resolve/{commit}/{quote(file.name)}"
                _fetch(hub, url, folder, file, advance)
    report(f"{repo_id} is in {folder}")
    return folder


def _hub(settings: Settings) -> Hub:
    from huggingface_hub import constants, get_token

    token = settings.hf_token or get_token()
    return Hub(constants.ENDPOINT.rstrip("/"), token, constants.HF_HUB_OFFLINE)


def _cached_folder(repo_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo_id, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _list_files(hub: Hub, repo_id: str) -> tuple[str, list[RemoteFile]]:
    """The newest commit and its wanted files, small ones first, so that trouble shows early."""
    with _asking(hub, repo_id):
        with _open(hub, f"{hub.endpoint}/api/models/{repo_id}?blobs=true") as response:
            answer = response.read()
        info = json.loads(answer)
        files = [_remote_file(entry) for entry in info["siblings"]]
        commit = str(info["sha"])
    wanted = [file for file in files if file.name.endswith(WANTED)]
    if not any(file.name.endswith(".safetensors") for file in wanted):
        raise StartError(f"{repo_id} holds no safetensors weights, and no others are loaded")
    return commit, sorted(wanted, key=lambda file: file.size_bytes)


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    name, lfs = str(entry["rfilename"]), entry.get("lfs") or {}
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError(name)  # it would be written outside of its folder
    size_bytes = int(lfs.get("size") or entry.get("size") or 0)
    return RemoteFile(name, size_bytes, lfs.get("sha256"), None if lfs else entry.get("blobId"))


def _fetch(
    hub: Hub, url: str, folder: Path, file: RemoteFile, advance: Callable[[int], None]
) -> None:
    target = folder / file.name
    # The hash is in the name: what was begun of another version is never continued.
    version = (file.sha256 or file.git_hash or "unknown")[:12]
    part = target.with_name(f".{target.name}.{version}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file():
        advance(part.stat().st_size)
    before = -1
    while (size_bytes := part.stat().st_size if part.is_file() else 0) < file.size_bytes:
        if size_bytes <= before:
            raise StartError(
                f"The connection to {hub.endpoint} broke at {size_bytes:,} of {file.size_bytes:,}"
                f" bytes of {file.name}; the same command goes on from there"
            )
        before = size_bytes
        with _asking(hub, file.name):
            _append(hub, url, part, advance)
    if not part.exists():
        part.touch()  # an empty file
    if not file.fits(part):
        part.unlink()
        raise StartError(f"{file.name} arrived damaged (its hash is not the hub's); try again")
    part.replace(target)


def _append(hub: Hub, url: str, part: Path, advance: Callable[[int], None]) -> None:
    """Go on where `part` ends; returns early, without an error, if the connection breaks."""
    with part.open("ab") as out:
        start = out.tell()
        with _open(hub, url, start) as response:
            if start and response.status != http.client.PARTIAL_CONTENT:
                advance(-start)
                out.truncate(0)
            try:
                while chunk := response.read(CHUNK_BYTES):
                    advance(len(chunk))
                    out.write(chunk)
            except (http.client.HTTPException, ConnectionError, TimeoutError):
                return


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows the hub to its storage, without telling the storage the token."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            request.remove_header("Authorization")
        return request


def _open(hub: Hub, url: str, start: int = 0) -> Any:
    headers = {"User-Agent": f"qwen3-audio/{__version__}", "Accept-Encoding": "identity"}
    if hub.token:
        headers["Authorization"] = f"Bearer {hub.token}"
    if start:
        headers["Range"] = f"bytes={start}-"
    opener = urllib.request.build_opener(_Redirects)
    return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)


@contextmanager
def _asking(hub: Hub, what: str) -> Iterator[None]:
    """Turn whatever goes wrong between here and the hub into one sentence."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise StartError(_refusal(hub, what, error.code)) from None
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
        reason = getattr(e, "reason", None) or str(e) or type(e).__name__
        raise StartError(f"Can't reach {hub.endpoint} for {what}: {reason}") from None
    except (ValueError, KeyError, TypeError):
        raise StartError(
            f"{hub.endpoint} gave an answer about {what} that makes no sense"
        ) from None


def _refusal(hub: Hub, what: str, status: int) -> str:
    if status in (401, 403) and hub.token:
        return f"The hub does not show {what} to the owner of this HF_TOKEN (status {status})"
    if status in (401, 403):
        return f"The hub shows {what} to nobody without a token: set HF_TOKEN, or mend the name"
    if status == 404:
        return f"The hub has no {what}, and there is no folder of that name"
    return f"The hub answered {status} about {what}; try again later"


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StartError(f"The disk of {folder} is full") from None
        user = f" for user {os.getuid()}" if hasattr(os, "getuid") else ""
        raise StartError(
            f"Can't write to {error.filename or folder}: {error.strerror or error};"
            f" make MODELS_DIR writable{user}, or set it to a folder that is"
        ) from None


def _check_space(folder: Path, files: list[RemoteFile]) -> None:
    needed, free = sum(file.size_bytes for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise StartError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed"
        )


def _digest(path: Path, hasher: Any) -> str:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return str(hasher.hexdigest())
