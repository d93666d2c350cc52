"""Kept sounds as answers: whole or the range that was asked for, told apart by their content."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from qwen3_audio.web.errors import ErrorKind, build_body

UNSATISFIABLE = ErrorKind(416, "invalid_request_error", "range_not_satisfiable")
MAX_HEADER_CHARS = 8_192  # some clients give up on longer lines
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


def sound_response(
    request: Request,
    data: bytes,
    *,
    sha256: str,
    media_type: str,
    filename: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """200, or 206 for one range of bytes; a range that can't be read is as good as none."""
    etag = f'"{sha256}"'
    shown = dict(headers or {}) | {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": _attachment(filename),
    }
    if request.headers.get("If-None-Match") == etag:
        return Response(status_code=304, headers=shown)
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or not (match[1] or match[2]) or not _is_same(request, etag):
        return Response(data, media_type=media_type, headers=shown)
    first, end = _bounds(match[1], match[2], len(data))
    if first >= end:
        message = f"The range lies outside of the {len(data)} bytes that there are."
        headers = {"Content-Range": f"bytes */{len(data)}"}
        return JSONResponse(build_body(message, UNSATISFIABLE), UNSATISFIABLE.status, headers)
    shown["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
    return Response(data[first:end], 206, media_type=media_type, headers=shown)


def percent_encoded(text: str) -> str | None:
    """Any text as a header can carry it; None if it would be too long for one."""
    encoded = quote(text, safe="")
    return encoded if len(encoded) <= MAX_HEADER_CHARS else None


def _is_same(request: Request, etag: str) -> bool:
    """Whether the client's part is one of this very content, where it asks."""
    return request.headers.get("If-Range", etag) == etag


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """The first byte and the one behind the last; empty if there is nothing in between."""
    if not first:
        return max(0, size - int(last)), size
    end = min(size, int(last) + 1) if last else size
    return int(first), end


def _attachment(filename: str) -> str:
    plain = re.sub(r"[/\\]", "_", filename)
    encoded = quote(plain, safe="")
    if encoded == plain:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename*=utf-8''{encoded}"
