"""`qwen3-audio serve`: load, open the port, answer until a signal, end what runs, leave."""

import argparse
import errno
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from qwen3_audio.assembly import build_app, load_backend, open_server_store
from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.commands.arguments import read_checkpoints, read_settings
from qwen3_audio.demo import NOTICE
from qwen3_audio.errors import StartError
from qwen3_audio.settings import MODEL_VARIABLES, Settings, hand_down
from qwen3_audio.types import Backend

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from qwen3_audio.store.opening import Store

log = logging.getLogger("qwen3_audio")

SHUTDOWN_S = 8  # Docker kills after ten
BROKEN_S = 2  # for answers that are on their way and whoever asks /health


class PathOnly(logging.Filter):
    """Access lines without the query, in which somebody may have put a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, *rest = record.args
            record.args = (client, method, str(path).partition("?")[0], *rest)
        return True


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "filters": {"path_only": {"()": PathOnly}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "plain",
            "stream": "ext://sys.stderr",
        }
    },
    "root": {"level": "INFO", "handlers": ["stderr"]},
    "loggers": {
        "uvicorn.error": {"level": "WARNING"},
        "uvicorn.access": {"filters": ["path_only"]},
        "alembic": {"level": "WARNING"},
    },
}


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, which are a clean end."""
    settings = read_settings(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    if arguments.fake:
        return _serve_fake(settings)
    checkpoints = read_checkpoints(arguments, settings)
    if settings.workers > 1:
        return _serve_processes(checkpoints, settings)
    with (
        open_port(settings.host, settings.port) as port,
        closing(open_server_store(settings)) as store,
    ):
        backend = load_backend(checkpoints, settings)
        what = ", ".join(f"{c.kind} from {c.folder}" for c in checkpoints)
        note = f" ({NOTICE})" if arguments.demo else ""
        what = f"{what}{note} on {backend.where}"
        return _serve(backend, settings, port, store, what, backend.when_broken)


def open_port(host: str, port: int) -> socket.socket:
    """Take the address without listening yet: a client is refused until the models are loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"HOST={host} is no address: {error.strerror}") from None
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise StartError(_port_trouble(host, port, error)) from None
    return taken


def _port_trouble(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use; stop the other program, or choose another port with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"HOST={host} is no address of this machine"
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than this user has; choose one above 1023"
    return f"Can't listen on {host} port {port}: {error.strerror}"


def _serve_fake(settings: Settings) -> int:
    from qwen3_audio.fake import FakeBackend

    if settings.workers > 1:
        raise StartError("--fake serves from one process; leave WORKERS at 1")
    with (
        open_port(settings.host, settings.port) as port,
        closing(open_server_store(settings)) as store,
    ):
        backend = FakeBackend(max_waiting=settings.max_waiting)
        return _serve(backend, settings, port, store, "no model: tones and fixed words")


def _serve(
    backend: Backend,
    settings: Settings,
    port: socket.socket,
    store: "Store",
    what: str,
    when_broken: Callable[[Callable[[str], None]], None] = lambda tell: None,
) -> int:
    address = _address(settings.host, port.getsockname()[1])
    _warn_if_public(settings, address)
    app = build_app(backend, settings, store=store)
    server = _build_server(app, f"Serving {what} at {address}")
    when_broken(partial(_end_soon, server))
    try:
        server.run(sockets=[port])
    except KeyboardInterrupt:  # uvicorn raises the signal again after a graceful end
        return 0
    except OSError as error:
        raise StartError(_port_trouble(settings.host, port.getsockname()[1], error)) from None
    trouble = backend.trouble()
    if trouble is not None:
        log.critical("Ended, to be started again: %s", trouble)
        return 1
    return 0


def _end_soon(server: "uvicorn.Server", trouble: str) -> None:
    """After a moment in which /health says why, so that a supervisor starts another process."""

    def end() -> None:
        server.should_exit = True

    threading.Timer(BROKEN_S, end).start()


def _build_server(app: "FastAPI", greeting: str) -> "uvicorn.Server":
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            log.info(greeting)

    return Server(uvicorn.Config(app, log_config=LOGGING, timeout_graceful_shutdown=SHUTDOWN_S))


def _serve_processes(checkpoints: Sequence[Checkpoint], settings: Settings) -> int:
    import uvicorn

    open_port(settings.host, settings.port).close()  # in use: say so before anything is loaded
    what = ", ".join(f"{c.kind} from {c.folder}" for c in checkpoints)
    address = _address(settings.host, settings.port)
    _warn_if_public(settings, address)
    log.info("%d processes, each loads its own models: %s at %s", settings.workers, what, address)
    folders = {MODEL_VARIABLES[c.kind]: str(c.folder.absolute()) for c in checkpoints}
    repositories = ("MODEL_BASE_REPO", "MODEL_CUSTOM_REPO", "MODEL_VOICEDESIGN_REPO")
    hand_down(
        {
            **dict.fromkeys((*MODEL_VARIABLES.values(), *repositories)),
            **folders,
            "QWEN_TTS_DEVICE": settings.qwen_tts_device,
            "QWEN_TTS_DTYPE": settings.qwen_tts_dtype,
            "REQUIRE_GPU": "1" if settings.require_gpu else "0",
        }
    )
    uvicorn.run(
        "qwen3_audio.asgi:app",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        log_config=LOGGING,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_worker_healthcheck=120,
    )
    return 0


def _warn_if_public(settings: Settings, address: str) -> None:
    if settings.is_local and not _is_loopback(settings.host):
        log.warning(
            "Local mode: whoever reaches %s can use this server; set ADMIN_TOKEN for keys,"
            " or HOST=127.0.0.1 to keep it to this machine",
            address,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
