"""What a checkpoint says of itself that it can say: small ones know one script and few words.

A folder may hold scope.json, `{"about": "simple English, word by word"}`. Without it there is no
limit, as for every published checkpoint.
"""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from qwen3_audio.errors import BadRequest, StartError

SCOPE_FILE = "scope.json"
# What decomposing leaves whole, and what keyboards write otherwise.
_SPELT = str.maketrans(
    {
        "ß": "ss",
        "æ": "ae",
        "Æ": "Ae",
        "œ": "oe",
        "Œ": "Oe",
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "đ": "d",
        "Đ": "D",
        "ð": "d",
        "Ð": "D",
        "þ": "th",
        "Þ": "Th",
        "ı": "i",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "–": "-",
        "—": "-",
        "…": "...",
    }
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Text in Latin letters, digits and punctuation; `about` tells people what to expect."""

    about: str

    @classmethod
    def read(cls, folder: Path) -> "Scope | None":
        """Of a checkpoint's folder; None without limits; StartError for a file that is not one."""
        path = folder / SCOPE_FILE
        if not path.is_file():
            return None
        try:
            about = json.loads(path.read_text(encoding="utf-8"))["about"]
        except (OSError, ValueError, TypeError, KeyError):
            raise StartError(f'{path} is not of the form {{"about": "..."}}') from None
        return cls(str(about))

    def fit(self, text: str, *, param: str) -> str:
        """The text in ASCII: accents off, signs and emoji left out.

        Raises BadRequest where letters of another script stand, or nothing is left to say.
        """
        fitted = " ".join("".join(self._fit_one(one, param) for one in _decompose(text)).split())
        if not any(one.isalnum() for one in fitted):
            raise BadRequest(
                f"{param} has no letter and no digit that this model could say: {self.about}",
                param=param,
                code="unsupported_text",
            )
        return fitted

    def _fit_one(self, one: str, param: str) -> str:
        if one.isascii():
            return one
        if one.isdecimal():
            return str(unicodedata.decimal(one))
        if unicodedata.combining(one):
            return ""
        if one.isalpha():
            script = unicodedata.name(one, "an unknown script").split()[0].capitalize()
            raise BadRequest(
                f"{param} has letters that this model does not know ({script}): {self.about}",
                param=param,
                code="unsupported_text",
            )
        return " "


def _decompose(text: str) -> str:
    return unicodedata.normalize("NFKD", text.translate(_SPELT))
