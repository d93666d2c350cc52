"""The router of OpenAI's routes, which some clients ask for without /v1."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

V1 = "/v1"


class OpenAIRouter(APIRouter):
    """Every route of it is there under /v1, where it is documented, and without."""

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().add_api_route(path, endpoint, **options)
        unlisted = options | {"include_in_schema": False}
        super().add_api_route(path.removeprefix(V1), endpoint, **unlisted)
