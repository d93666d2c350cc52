"""What may be a name, and how names are compared."""

import unicodedata

from qwen3_audio.errors import BadRequest

MAX_NAME_CHARS = 128


def checked_name(name: str, *, param: str = "name") -> str:
    """The name without white space at both ends; BadRequest if blank, too long or not one line."""
    stripped = name.strip()
    if not stripped:
        raise BadRequest(f"{param} must not be blank", param=param)
    if len(stripped) > MAX_NAME_CHARS:
        raise BadRequest(
            f"{param} has {len(stripped)} characters; at most {MAX_NAME_CHARS} are allowed",
            param=param,
        )
    # Control characters, line ends and halves of characters; format characters join emoji.
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in stripped):
        raise BadRequest(
            f"{param} must be one line of text without control characters", param=param
        )
    return stripped


def name_key(name: str) -> str:
    """Equal for names that differ only in case, outer white space or composition of accents."""
    return unicodedata.normalize("NFC", name.strip().casefold())
