"""What a checkpoint says of itself that it can take: small ones know one script and short pieces.

A folder may hold scope.json: `about`, a sentence for people, and what of `max_chars`, `max_s`,
`pause_s` and `in_context` is not as usual. Without it there is no limit, as for every published
checkpoint.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from qwen3_audio.errors import BadRequest, StartError

SCOPE_FILE = "scope.json"
# What decomposing leaves whole or takes for something else, and what keyboards write otherwise.
_SPELT = str.maketrans(
    {
        **{"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l"},
        **{"Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"},
        **{"ħ": "h", "Ħ": "H", "ŋ": "ng", "Ŋ": "Ng", "ŧ": "t", "Ŧ": "T", "ə": "e", "Ə": "E"},
        **dict.fromkeys("‘’ʻʼ′`´", "'"),
        **dict.fromkeys("–—", " - "),
        **{"−": " minus ", "×": " times ", "÷": " over ", "°": " degrees ", "µ": " micro "},
        **{"½": " half ", "¼": " quarter ", "¾": " three quarters ", "²": " squared "},
        **{"€": " euros ", "£": " pounds ", "…": "."},
    }
)
# Signs as words, as pauses, or as nothing: small models know full stop, comma and apostrophe.
_SIGNS = (
    (re.compile(r"(?<=[^\s.,;:!?-])[^\S\n]*\n+\s*"), ". "),  # a line's end is an end
    (re.compile(r"(?<=\d)[,.](?=\d{3}\b)"), ""),  # 1,000
    (re.compile(r"(?<=\d)\.(?=\d)"), " point "),
    (re.compile(r"\$\s?(\d+)"), r"\1 dollars"),
    (re.compile(r"%"), " percent "),
    (re.compile(r"&"), " and "),
    (re.compile(r"\+"), " plus "),
    (re.compile(r"="), " equals "),
    (re.compile(r"@"), " at "),
    (re.compile(r"(?<=\d):(?=\d)"), " "),
    (re.compile(r"\s-+\s|[:;()\[\]{}]"), ", "),
    (re.compile(r"[^A-Za-z0-9.,!?'\s]"), " "),
    (re.compile(r"(?<![A-Za-z])'|'(?![A-Za-z])"), " "),  # a quotation mark
    (re.compile(r"\s+(?=[.,!?])"), ""),
    (re.compile(r"[.,]*([!?])[.,!?]*"), r"\1"),
    (re.compile(r",*\.[.,]*"), "."),
    (re.compile(r",+"), ","),
    (re.compile(r"^[\s.,!?]+"), ""),
    (re.compile(r"\s+"), " "),
)
_LONGEST_PAUSE_S = 2
_NAMES = {"Cjk": "Chinese"}
_OWN_SCRIPT = ("Latin", "Modifier")


@dataclass(frozen=True, slots=True)
class Scope:
    """Text in Latin letters, digits and punctuation; `about` tells people what to expect."""

    about: str
    max_chars: int | None = None  # of one prompt; longer text is spoken part by part
    max_s: float | None = None  # of one piece of a recording; longer ones are cut
    pause_s: float = 0.0  # between parts of a text, where its speech ends without silence
    in_context: bool = True  # False: of a reference only the speaker vector helps

    @classmethod
    def read(cls, folder: Path) -> "Scope | None":
        """Of a checkpoint's folder; None without limits; StartError for a file that is not one."""
        path = folder / SCOPE_FILE
        if not path.is_file():
            return None
        try:
            scope = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            scope = None
        if scope is None or not scope._is_sound():
            raise StartError(
                f"{path} does not hold about, a text, and nothing besides but max_chars, max_s,"
                f" pause_s (up to {_LONGEST_PAUSE_S}), numbers, and in_context, true or false"
            )
        return scope

    def _is_sound(self) -> bool:
        limits = [limit for limit in (self.max_chars, self.max_s) if limit is not None]
        return (
            isinstance(self.about, str)
            and type(self.in_context) is bool
            and isinstance(self.max_chars, int | None)
            and all(type(limit) in (int, float) and limit > 0 for limit in limits)
            and type(self.pause_s) in (int, float)
            and 0 <= self.pause_s <= _LONGEST_PAUSE_S
        )

    def fit(self, text: str, *, param: str) -> str:
        """The text in ASCII letters, digits and `. , ! ? '`: accents off, signs as words or pauses.

        Raises BadRequest where letters of another script stand, or nothing is left to say.
        """
        decomposed = unicodedata.normalize("NFKD", text.translate(_SPELT))
        fitted = "".join(self._fit_one(one, param) for one in decomposed)
        for sign, said in _SIGNS:
            fitted = sign.sub(said, fitted)
        fitted = fitted.strip()
        if not any(one.isalnum() for one in fitted):
            raise BadRequest(
                f"{param} has no letter and no digit that this model could say: {self.about}",
                param=param,
                code="unsupported_text",
            )
        return fitted

    def _fit_one(self, one: str, param: str) -> str:
        category = unicodedata.category(one)
        if one.isascii():
            return " " if category == "Cc" and one != "\n" else one
        if one.isdecimal():
            return str(unicodedata.decimal(one))
        if category in ("Mn", "Mc", "Me", "Cf"):  # accents, and what nobody sees
            return ""
        if one.isalpha():
            script = unicodedata.name(one, "Unknown").split()[0].capitalize()
            name = _NAMES.get(script, script)
            letters = f"the letter {one}" if script in _OWN_SCRIPT else f"letters ({name})"
            raise BadRequest(
                f"{param} has {letters} that this model does not know: {self.about}",
                param=param,
                code="unsupported_text",
            )
        return " "
