"""Every route of the app, so that tests can't forget one."""

import re
from collections.abc import Iterator
from typing import Any

from qwen3_audio.web.app import ROUTERS


def routes() -> list[str]:
    """As `GET /voices/{voice_id}`; those that are there with and without /v1 once."""
    found = [route for router in ROUTERS for route in _flat(router)]
    return sorted({f"{name} {_with_v1(route.path)}" for route in found for name in route.methods})


def _flat(router: Any) -> Iterator[Any]:
    """The routes, those of routers inside too, without the /v1 that these may have been given."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        yield from [route] if inner is None else _flat(inner)


def _with_v1(path: str) -> str:
    return re.sub("^/(?=audio/|models)", "/v1/", path)
