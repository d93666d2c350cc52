"""Who is calling. The only reader of the Authorization header."""

import hmac
from typing import Annotated

from fastapi import Depends, Request

from qwen3_audio.books import LOCAL_CALLER
from qwen3_audio.errors import NotAllowed, NotAuthenticated
from qwen3_audio.store.keys import Caller
from qwen3_audio.web.state import get_service, get_settings

SEND_KEY = "Send your key as 'Authorization: Bearer <key>'."
SEND_TOKEN = "Send the admin token as 'Authorization: Bearer <token>'."
IS_LOCAL = "This server has no users but the local one: set ADMIN_TOKEN to give out keys."


async def current_caller(request: Request) -> Caller:
    """The key's owner. In local mode everybody is user 1, whatever key a client sends."""
    if get_settings(request).is_local:
        return LOCAL_CALLER
    key = find_bearer(request) or request.headers.get("api-key", "").strip()
    if not key:
        raise NotAuthenticated(SEND_KEY)
    service = get_service(request)
    store = service.store
    if store is None:
        raise NotAuthenticated("This server knows no keys: it was started without a database.")
    return await service.books.authenticate(store, key)


CallerNow = Annotated[Caller, Depends(current_caller)]


async def paying_caller(request: Request, caller: CallerNow) -> Caller:
    """As current_caller, for what the engine has to work for: counts the request."""
    await get_service(request).books.count_request(caller)
    return caller


async def current_user_id(caller: CallerNow) -> int:
    return caller.user_id


async def discovering_user_id(request: Request) -> int | None:
    """As current_user_id; lists of what everybody has are open where PUBLIC_DISCOVERY allows it.

    None: somebody without a key that counts, who sees what everybody has and nothing else.
    """
    try:
        return (await current_caller(request)).user_id
    except (NotAuthenticated, NotAllowed):
        if get_settings(request).public_discovery:
            return None
        raise


async def require_admin(request: Request) -> None:
    """For the holder of ADMIN_TOKEN alone; in local mode there is none."""
    if get_settings(request).is_local:
        raise NotAllowed(IS_LOCAL)
    await require_operator(request)


async def require_operator(request: Request) -> None:
    """For figures about everybody: open in local mode, else for the holder of ADMIN_TOKEN."""
    admin_token = get_settings(request).admin_token
    if admin_token is None:
        return
    token = find_bearer(request)
    if token is None:
        raise NotAuthenticated(SEND_TOKEN)
    # Headers reach us as latin-1, whatever the client meant; these are its bytes again.
    given, wanted = token.encode("latin-1"), admin_token.encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(given, wanted):
        raise NotAllowed("This needs the admin token.")


def find_bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


PayingCaller = Annotated[Caller, Depends(paying_caller)]
UserId = Annotated[int, Depends(current_user_id)]
DiscoveringUserId = Annotated[int | None, Depends(discovering_user_id)]
