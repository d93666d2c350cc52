"""Pure tables: language names and codes, OpenAI voice names and the speakers behind them.

A language is its English name with a capital everywhere in this program; codes are for the edge.
"""

from collections.abc import Collection

from qwen3_audio.errors import BadRequest

# English name → ISO 639-1 code (639-3 where there is none), then every other code and name read.
_CODES = {
    "Chinese": ("zh", "zho", "chi", "cmn", "cn", "mandarin"),
    "English": ("en", "eng"),
    "Cantonese": ("yue",),
    "Arabic": ("ar", "ara", "arb"),
    "German": ("de", "deu", "ger"),
    "French": ("fr", "fra", "fre"),
    "Spanish": ("es", "spa"),
    "Portuguese": ("pt", "por"),
    "Indonesian": ("id", "ind"),
    "Italian": ("it", "ita"),
    "Korean": ("ko", "kor"),
    "Russian": ("ru", "rus"),
    "Thai": ("th", "tha"),
    "Vietnamese": ("vi", "vie"),
    "Japanese": ("ja", "jpn"),
    "Turkish": ("tr", "tur"),
    "Hindi": ("hi", "hin"),
    "Malay": ("ms", "msa", "may", "zsm"),
    "Dutch": ("nl", "nld", "dut"),
    "Swedish": ("sv", "swe"),
    "Danish": ("da", "dan"),
    "Finnish": ("fi", "fin"),
    "Polish": ("pl", "pol"),
    "Czech": ("cs", "ces", "cze"),
    "Filipino": ("fil", "tl", "tgl", "tagalog"),
    "Persian": ("fa", "fas", "per", "pes", "farsi"),
    "Greek": ("el", "ell", "gre"),
    "Romanian": ("ro", "ron", "rum"),
    "Hungarian": ("hu", "hun"),
    "Macedonian": ("mk", "mkd", "mac"),
}
_NAMES = {word: name for name, codes in _CODES.items() for word in (name.lower(), *codes)}

ASR_LANGUAGES = tuple(_CODES)
TTS_LANGUAGES = (
    *("Chinese", "English", "Japanese", "Korean", "German"),
    *("French", "Russian", "Portuguese", "Spanish", "Italian"),
)
ALIGNER_LANGUAGES = (
    *("Chinese", "Cantonese", "English", "German", "Spanish", "French"),
    *("Italian", "Portuguese", "Russian", "Korean", "Japanese"),
)

_ANY = {"", "auto", "none"}  # a client that formats a missing value sends "None"
_CANTONESE_REGIONS = {"hk", "mo", "yue"}  # zh-HK, zh-Hant-MO, zh-yue
_UNSPACED = {"Chinese", "Cantonese", "Japanese", "Thai"}

SPEAKERS = (
    *("Vivian", "Serena", "Uncle_Fu", "Dylan", "Eric"),
    *("Ryan", "Aiden", "Ono_Anna", "Sohee"),
)
OPENAI_VOICES = {
    "alloy": "Vivian",
    "ash": "Serena",
    "ballad": "Uncle_Fu",
    "coral": "Dylan",
    "echo": "Eric",
    "fable": "Ryan",
    "onyx": "Aiden",
    "nova": "Ono_Anna",
    "sage": "Sohee",
    "shimmer": "Vivian",
    "verse": "Ryan",
    "marin": "Serena",
    "cedar": "Aiden",
}


def parse_language(value: str | None, known: Collection[str]) -> str | None:
    """The English name among `known` that a name, ISO 639 code or BCP-47 tag means.

    None stands for "detect"; anything unknown raises BadRequest with the choices.
    """
    word = (value or "").strip().lower()
    if word in _ANY:
        return None
    spelled = {name.lower(): name for name in known}
    for name in (word, *_names_of_tag(word)):
        if name.lower() in spelled:
            found = spelled[name.lower()]
            return found[:1].upper() + found[1:]
    choices = ", ".join(sorted(name[:1].upper() + name[1:] for name in known))
    raise BadRequest(
        f"Unknown language {(value or '').strip()[:40]!r}; choose auto, one of {choices},"
        " or the code of one, such as en.",
        param="language",
        code="invalid_value",
    )


def _names_of_tag(word: str) -> list[str]:
    """What a code or tag may mean, best first: zh-HK is Chinese where there is no Cantonese."""
    primary, *subtags = word.replace("_", "-").split("-")
    name = _NAMES.get(word) or _NAMES.get(primary)
    if name is None:
        return []
    if name == "Chinese" and _CANTONESE_REGIONS & set(subtags):
        return ["Cantonese", "Chinese"]
    return [name]


def language_code(name: str) -> str | None:
    """ISO 639-1 code of an English name, 639-3 where there is none; None for an unknown name."""
    codes = _CODES.get(name)
    return codes[0] if codes else None


def is_spaced(name: str) -> bool:
    """Whether words, and so pieces of a transcript, are separated by a space in this language."""
    return name not in _UNSPACED
