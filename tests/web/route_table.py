"""Every route of the app, so that tests can't forget one."""

from collections.abc import Iterator
from typing import Any

from qwen3_audio.web.app import ROUTERS

V1 = "/v1/"


def routes() -> list[str]:
    """As `GET /voices/{voice_id}`; those that are there with and without /v1 once."""
    names = every_name()
    return sorted(names - {without_v1(name) for name in names if V1 in name})


def every_name() -> set[str]:
    """Those without /v1 too."""
    found = [route for router in ROUTERS for route in _flat(router)]
    return {f"{name} {route.path}" for route in found for name in route.methods}


def without_v1(route: str) -> str:
    """A route's name, or an address, in the other of the two spellings."""
    return route.replace(V1, "/", 1)


def addresses(path: str) -> list[str]:
    """Where a route can be asked for."""
    return [path, without_v1(path)] if path.startswith(V1) else [path]


def _flat(router: Any) -> Iterator[Any]:
    """The routes, those of routers inside too."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        yield from [route] if inner is None else _flat(inner)
