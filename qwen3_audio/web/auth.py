"""Who is calling. The only reader of the Authorization header."""

import hmac
from typing import Annotated

from fastapi import Depends, Request

from qwen3_audio.errors import NotAllowed, NotAuthenticated
from qwen3_audio.settings import Settings

LOCAL_USER_ID = 1


def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def current_user_id(request: Request) -> int:
    """The caller's id. In local mode everybody is user 1, whatever key a client sends."""
    if get_settings(request).is_local:
        return LOCAL_USER_ID
    raise NotAuthenticated("Send your key as 'Authorization: Bearer <key>'.")


async def discovering_user_id(request: Request) -> int:
    """As current_user_id; lists of what everybody has are open where PUBLIC_DISCOVERY allows it."""
    if get_settings(request).public_discovery:
        return LOCAL_USER_ID
    return await current_user_id(request)


async def require_operator(request: Request) -> None:
    """For figures about everybody: open in local mode, else for the holder of ADMIN_TOKEN."""
    admin_token = get_settings(request).admin_token
    if admin_token is None:
        return
    token = find_bearer(request)
    if token is None:
        raise NotAuthenticated("Send the admin token as 'Authorization: Bearer <token>'.")
    if not hmac.compare_digest(token.encode(), admin_token.encode()):
        raise NotAllowed("This needs the admin token.")


def find_bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


UserId = Annotated[int, Depends(current_user_id)]
DiscoveringUserId = Annotated[int, Depends(discovering_user_id)]
