"""Request bodies → fields: JSON or a multipart form, told apart by the content type.

Unknown fields are ignored; a value that does not fit is a BadRequest that names its field.
"""

import asyncio
import json
import math
import re
from collections.abc import Iterable
from typing import Any

from fastapi import Request, Response
from starlette.datastructures import UploadFile

from qwen3_audio.errors import BadRequest, StorageFull
from qwen3_audio.orders import SamplingForm, Upload
from qwen3_audio.store.files import NO_ROOM, NO_ROOM_LEFT

MAX_INLINE_BYTES = 65_536  # larger JSON is parsed on a worker thread
MAX_TEXT_PART_BYTES = 64 * 1024 * 1024  # base64 of the longest reference fits
_TRAILING_COMMA = re.compile(rb'("(?:[^"\\]|\\.)*+")|,(?=\s*[}\]])()', re.DOTALL)
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
MAX_NAMES, MAX_NAME_CHARS = 5, 40  # of unknown fields in a header
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


def bad_value(name: str, wish: str) -> BadRequest:
    return BadRequest(f"{name} must be {wish}.", param=name, code="invalid_value")


def missing(name: str, wish: str) -> BadRequest:
    return BadRequest(f"{name} is missing: {wish}.", param=name, code="missing_required_parameter")


class Fields:
    """Values by name. Of several values under one name the last counts; null means left out."""

    def __init__(self, items: Iterable[tuple[str, Any]]) -> None:
        self._values: dict[str, list[Any]] = {}
        self._asked: set[str] = set()
        for name, value in items:
            if value is not None:
                self._values.setdefault(name, []).append(value)

    def close(self) -> None:
        """Give back the temporary files of uploads; a decoder that still reads one stops there."""
        for values in self._values.values():
            for value in values:
                if isinstance(value, UploadFile):
                    value.file.close()

    def find(self, *names: str) -> Any:
        """The value under the first of these names that has one, else None."""
        self._asked.update(names)
        return next((self._values[name][-1] for name in names if name in self._values), None)

    def unknown(self, *known: str) -> list[str]:
        """Names that nobody asked for, nor are among those known to be of no use here."""
        return [name for name in self._values if name not in self._asked | set(known)]

    def count(self, name: str) -> int:
        return len(self._values.get(name, ()))

    def text(self, *names: str) -> str | None:
        value = self.find(*names)
        return None if value is None else _check_text(names[0], value)

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of the choices, in any case, with white space around it."""
        word = (self.text(name) or "").strip().lower() or default
        if word not in choices:
            raise bad_value(name, f"one of {', '.join(filter(None, choices))}")
        return word

    def number(self, name: str) -> float | None:
        value = self.find(name)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise bad_value(name, "a number")
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            raise bad_value(name, "a number")  # Python itself would take 1_000
        try:
            return float(value)
        except OverflowError:
            return math.inf

    def whole(self, name: str) -> int | None:
        value = self.find(name)
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", value):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        number = self.number(name)
        if number is not None and not number.is_integer():
            raise bad_value(name, "a whole number")
        return None if number is None else int(number)

    def flag(self, name: str) -> bool:
        value = self.find(name)
        if isinstance(value, bool) or value is None:
            return bool(value)
        word = str(value).strip().lower()
        if word not in TRUE + FALSE:
            raise bad_value(name, "true or false")
        return word in TRUE

    def texts(self, *names: str) -> tuple[str, ...]:
        """Repeated values, `name[]` too; each may be a list, a JSON list or separated by commas."""
        every = [name for base in names for name in (base, f"{base}[]")]
        self._asked.update(every)
        values = [value for name in every for value in self._values.get(name, ())]
        found = [_check_text(names[0], item) for value in values for item in _as_list(value)]
        return tuple(word.strip() for word in found if word.strip())

    def upload(self, *names: str) -> Upload | None:
        """An uploaded file, or text that should be base64; an empty one is an error."""
        value = self.find(*names)
        if value is None:
            return None
        if isinstance(value, UploadFile):
            if value.size == 0:
                raise BadRequest(
                    f"{names[0]} is an empty file.", param=names[0], code="invalid_audio"
                )
            return value.file
        return _check_text(names[0], value)

    def sampling(self) -> SamplingForm:
        return SamplingForm(
            temperature=self.number("temperature"),
            top_p=self.number("top_p"),
            top_k=self.whole("top_k"),
            seed=self.whole("seed"),
            max_new_tokens=self.whole("max_new_tokens"),
        )


def warn_of_unknown(response: Response, fields: Fields, *known: str) -> None:
    """A `Warning` header that names fields which changed nothing; call it when all are read."""
    names = [re.sub(r"[^\w.\[\]-]", "?", name, flags=re.ASCII) for name in fields.unknown(*known)]
    if not names:
        return
    listed = [name[:MAX_NAME_CHARS] for name in names[:MAX_NAMES]]
    more = ["..."] if len(names) > MAX_NAMES else []
    warning = f'199 - "unknown fields were ignored: {", ".join(listed + more)}"'
    before = response.headers.get("Warning")
    response.headers["Warning"] = f"{before}, {warning}" if before else warning


async def read_fields(request: Request, *, may_trail: bool = False) -> Fields:
    """The whole body. Files are on disk if they are large; call `close` when done.

    With `may_trail`, JSON may have commas behind the last item, as an example of document 2 has.
    """
    content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        try:
            form = await request.form(max_files=20, max_part_size=MAX_TEXT_PART_BYTES)
        except OSError as error:  # large files are written to the disk
            if error.errno not in NO_ROOM:
                raise
            raise StorageFull(NO_ROOM_LEFT) from error
        return Fields(form.multi_items())
    return Fields((await _read_object(request, may_trail)).items())


async def read_object(request: Request) -> dict[str, Any]:
    """A JSON object as it is, null included; without a body an empty one."""
    body = await request.body()
    return _parse_object(body, may_trail=False) if body.strip() else {}


async def _read_object(request: Request, may_trail: bool) -> dict[str, Any]:
    body = await request.body()
    if len(body) > MAX_INLINE_BYTES:
        return await asyncio.to_thread(_parse_object, body, may_trail)
    return _parse_object(body, may_trail)


def _parse_object(body: bytes, may_trail: bool) -> dict[str, Any]:
    if may_trail:
        body = _TRAILING_COMMA.sub(rb"\1\2", body)
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(f"The body is not valid JSON: {error.msg} at {where}.") from None
    except (ValueError, RecursionError):  # not UTF-8, endless digits, endless nesting
        raise BadRequest("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def _check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise bad_value(name, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        raise bad_value(name, "valid Unicode text") from None
    return value


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, str):
        return value if isinstance(value, list) else [value]
    if value.lstrip().startswith("["):
        try:
            items = json.loads(value)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, list):
            return items
    return value.split(",")
