"""What an address holds: numbers in its path, pages in its query."""

from qwen3_audio.errors import BadRequest, NotFound
from qwen3_audio.store.columns import HIGHEST_ID
from qwen3_audio.store.pages import MAX_PAGE
from qwen3_audio.web.forms import Fields, bad_value


def path_id(text: str, what: str) -> int:
    """The number in a path; NotFound for what is none, since there is no such thing."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= HIGHEST_ID):
        raise NotFound(f"There is no {what} {text[:40]}")
    return int(text)


def read_page(last: str | None, limit: str | None, *, default: int) -> tuple[int | None, int]:
    """Where a list goes on (`before` or `after` in its address), and how long a page is."""
    fields = Fields([("before", last), ("limit", limit)])
    num_shown = fields.whole("limit")
    if num_shown is not None and not 1 <= num_shown <= MAX_PAGE:
        raise bad_value("limit", f"a number from 1 to {MAX_PAGE}")
    number = fields.whole("before")
    if number is not None and not 0 <= number <= HIGHEST_ID:
        raise BadRequest(f"{last} is no number that anything here has.", param="before")
    return number, num_shown or default


def parse_tagged_id(text: str, tag: str, *, what: str) -> int:
    """The number in an id like `cons_7`; NotFound for what is none."""
    found, separator, number = text.strip().partition("_")
    if found != tag or not separator:
        raise NotFound(f"There is no {what} {text[:40]!r}", param=what)
    return path_id(number, what)
