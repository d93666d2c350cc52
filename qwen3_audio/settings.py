"""The only reader of the environment: one frozen dataclass, one field per variable.

A variable is the field's name in capitals. An empty value means unset. A value that does not fit,
or a name that is nearly one of ours, stops the start in one sentence.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from qwen3_audio.errors import StartError
from qwen3_audio.types import ModelKind

MODEL_VARIABLES = {
    ModelKind.CUSTOM_VOICE: "TTS_CUSTOMVOICE_MODEL_PATH",
    ModelKind.BASE: "TTS_BASE_MODEL_PATH",
    ModelKind.VOICE_DESIGN: "TTS_VOICEDESIGN_MODEL_PATH",
    ModelKind.ASR: "ASR_MODEL_PATH",
    ModelKind.ALIGNER: "ALIGNER_MODEL_PATH",
}
DTYPES = ("bfloat16", "float16", "float32", "int8", "fp8")
ATTENTIONS = ("flash_attention_2", "sdpa", "eager", "")
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
Parse = Callable[[str], Any]


def _text(text: str) -> str:
    return text


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _flag(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError("is neither true nor false")
    return text.lower() in TRUE


def _int(low: int, high: int = 1_000_000_000) -> Parse:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,15}", text):
            raise ValueError(f"is not a whole number from {low} to {high}")
        if not low <= int(text) <= high:
            raise ValueError(f"is not from {low} to {high}")
        return int(text)

    return parse


def _float(low: float, high: float) -> Parse:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:  # also false for nan
            raise ValueError(f"is not a number from {low:g} to {high:g}")
        return number

    return parse


def _one_of(*choices: str) -> Parse:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"is not one of {', '.join(c or 'nothing' for c in choices)}")
        return text.lower()

    return parse


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,2})?", text.lower()):
        raise ValueError("is not a device: cpu, cuda, cuda:0, cuda:1 and so on")
    return "cuda:0" if text.lower() == "cuda" else text.lower()


def _threads(text: str) -> int:
    return int(_int(1, 4096)(text.partition(",")[0].strip()))  # OpenMP's may be a list


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _admin_token(text: str) -> str | None:
    if text == "change-me":
        raise ValueError(
            "is the example's own; make one of your own, for example with openssl rand"
        )
    return None if text == "none" else text


def _database(text: str) -> str:
    if not re.match(r"(sqlite|postgres|postgresql)(\+[a-z0-9]+)?://", text):
        raise ValueError("does not begin with sqlite:// or postgresql://")
    return text


def _setting(default: Any, parse: Parse, *, secret: bool = False, keeps_empty: bool = False) -> Any:
    meta = {"parse": parse, "secret": secret, "keeps_empty": keeps_empty}
    return field(default=default, repr=not secret, metadata=meta)


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its default; docs/settings.md says what each one does."""

    tts_customvoice_model_path: str | None = _setting(None, _text)
    tts_base_model_path: str | None = _setting(None, _text)
    tts_voicedesign_model_path: str | None = _setting(None, _text)
    asr_model_path: str | None = _setting(None, _text)
    aligner_model_path: str | None = _setting(None, _text)
    model_base_repo: str | None = _setting(None, _text)
    model_custom_repo: str | None = _setting(None, _text)
    model_voicedesign_repo: str | None = _setting(None, _text)
    hf_token: str | None = _setting(None, _text, secret=True)
    models_dir: Path = _setting(Path("models"), _folder)
    data_dir: Path = _setting(Path("data"), _folder)
    database_url: str | None = _setting(None, _database, secret=True)  # None: in data_dir

    qwen_tts_device: str | None = _setting(None, _device)  # None: cuda:0 if there is one, else cpu
    require_gpu: bool = _setting(False, _flag)
    qwen_tts_dtype: str = _setting("bfloat16", _one_of(*DTYPES))
    qwen_cuda_graphs: bool = _setting(True, _flag)
    qwen_tts_attn: str = _setting("flash_attention_2", _one_of(*ATTENTIONS), keeps_empty=True)

    omp_num_threads: int | None = _setting(None, _threads)  # None: by affinity and cgroup

    host: str = _setting("0.0.0.0", _text)
    port: int = _setting(8000, _int(0, 65_535))
    workers: int = _setting(1, _int(1, 256))

    admin_token: str | None = _setting(None, _admin_token, secret=True)  # None: local mode
    hmac_secret: str | None = _setting(None, _text, secret=True)  # None: made at first start
    public_discovery: bool = _setting(True, _flag)

    max_input_chars: int = _setting(4096, _int(1, 100_000))
    max_text_len: int = _setting(3000, _int(1, 100_000))
    min_batch_size: int = _setting(2, _int(1, 10_000))
    max_batch_size: int = _setting(50, _int(1, 10_000))
    batch_discount_default: float = _setting(0.90, _float(0, 1))
    batch_discount_min: float = _setting(0.60, _float(0, 1))
    batch_discount_max: float = _setting(1.00, _float(0, 1))
    batch_discount_ewma_alpha: float = _setting(0.10, _float(0, 1))
    max_upload_mb: int = _setting(512, _int(1, 1_000_000))
    max_audio_s: int = _setting(14_400, _int(1))
    max_reference_s: int = _setting(60, _int(1))
    max_transcript_error: float | None = _setting(None, _float(0, 100))
    max_voices: int = _setting(1000, _int(1))  # of one user
    max_voice_mb: int = _setting(1024, _int(1))
    max_consents: int = _setting(1000, _int(1))
    max_consent_mb: int = _setting(1024, _int(1))
    max_voice_names: int = _setting(1000, _int(1))
    max_waiting: int = _setting(512, _int(0))
    max_running: int | None = _setting(None, _int(1))  # None: by memory
    cors_origins: tuple[str, ...] | None = _setting(None, _list)  # None: by mode

    xdg_cache_home: Path | None = _setting(None, _folder)

    def __post_init__(self) -> None:
        if self.min_batch_size > self.max_batch_size:
            raise StartError("MIN_BATCH_SIZE is larger than MAX_BATCH_SIZE")
        low, middle, high = (
            self.batch_discount_min,
            self.batch_discount_default,
            self.batch_discount_max,
        )
        if not low <= middle <= high:
            raise StartError("BATCH_DISCOUNT_DEFAULT is not between BATCH_DISCOUNT_MIN and _MAX")
        if self.workers > 1 and self.database.startswith("sqlite"):
            raise StartError(
                f"WORKERS={self.workers} needs DATABASE_URL to name a PostgreSQL database:"
                " SQLite serves one process"
            )

    @classmethod
    def from_env(
        cls, env: Mapping[str, str] = os.environ, options: Mapping[str, str] | None = None
    ) -> "Settings":
        """Read every variable; `options` (by variable) come from the command line and win.

        Raises StartError for a value that does not fit and for a name that is nearly one of ours.
        """
        _refuse_misspelt(env)
        given = {name: (name, env[name]) for name in VARIABLES if name in env}
        for name, text in (options or {}).items():
            given[name] = (f"--{name.rpartition('_')[2].lower()}", text)
        known = {f.name.upper(): f for f in fields(cls)}
        return cls(
            **{
                known[name].name: _parse(label, text, known[name].metadata)
                for name, (label, text) in given.items()
                if text.strip() or known[name].metadata["keeps_empty"]
            }
        )

    @property
    def database(self) -> str:
        """The database's URL; by default a SQLite file in the data folder."""
        return self.database_url or f"sqlite:///{self.data_dir}/qwen3-audio.db"

    @property
    def is_local(self) -> bool:
        """Local mode: no keys, everything belongs to one user."""
        return self.admin_token is None

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """Web pages of which origins may call; everyone's in local mode, nobody's with keys."""
        if self.cors_origins is not None:
            return self.cors_origins
        return ("*",) if self.is_local else ()

    @property
    def cache_dir(self) -> Path:
        """Where what can be made again is kept: parts of the demo, compiled kernels."""
        return (self.xdg_cache_home or Path.home() / ".cache") / "qwen3-audio"

    @property
    def kernels_dir(self) -> Path:
        """Where the kernels for CPUs are compiled to."""
        return self.cache_dir / "kernels"


VARIABLES = tuple(f.name.upper() for f in fields(Settings))
SECRETS = frozenset(f.name.upper() for f in fields(Settings) if f.metadata["secret"])


def hand_down(values: Mapping[str, str | None]) -> None:
    """Set or (None) unset variables for the processes that are started from here."""
    for name, text in values.items():
        os.environ.pop(name, None)
        if text is not None:
            os.environ[name] = text


def named_compiler() -> str | None:
    """The C compiler that CC names, for whoever compiles beside us."""
    return os.environ.get("CC")


def child_environment(values: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment for a child, with these variables set or (None) unset."""
    kept = {name: text for name, text in os.environ.items() if name not in values}
    return kept | {name: text for name, text in values.items() if text is not None}


def suggest(values: Mapping[str, str]) -> None:
    """Set variables of other libraries that nobody has set."""
    for name, text in values.items():
        os.environ.setdefault(name, text)


def _parse(label: str, text: str, metadata: Mapping[str, Any]) -> Any:
    try:
        return metadata["parse"](text.strip())
    except ValueError as error:
        shown = label if metadata["secret"] else f"{label}={text!r}"
        raise StartError(f"{shown} {error}") from None


def _refuse_misspelt(env: Mapping[str, str]) -> None:
    for name in sorted(set(env) - set(VARIABLES)):
        spelt = name.upper() if "_" in name else name
        close = [ours for ours in VARIABLES if _resembles(spelt, ours)]
        if close:
            best = difflib.get_close_matches(spelt, close, n=1, cutoff=0)[0]
            raise StartError(f"Unknown setting {name}: did you mean {best}?")


def _resembles(name: str, ours: str) -> bool:
    """True for what a slip of the fingers makes of one of our names.

    Ordinary names (PORT, DATA_DIR) need more likeness than those that can only be ours
    (TTS_BASE_MODEL_PATH), because other programs have names like PORTAGE, GH_TOKEN, HOSTNAME.
    """
    if name[:1] != ours[0] or re.search(r"_(SERVICE|PORT)(_|$)", name):
        return False  # Kubernetes makes ASR_MODEL_PORT of the name of a service
    if sorted(name) == sorted(ours) or _shares_words(name, ours):
        return True
    if len(ours) <= 4 or abs(len(name) - len(ours)) > 6:
        return False
    matcher = difflib.SequenceMatcher(None, name, ours, autojunk=False)
    num_edits = sum(
        max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal"
    )
    is_ours_alone = re.match(r"TTS_|ASR_|ALIGNER_|QWEN_|MODEL_|BATCH_DISCOUNT_", ours) is not None
    max_edits = 1 if len(ours) <= 8 else 2
    return num_edits <= max_edits or (is_ours_alone and matcher.ratio() >= 0.82)


def _shares_words(name: str, ours: str) -> bool:
    """True for a name of ours without some words (ASR_MODEL) or with others (ASR_MODEL_DIR)."""
    words, own_words = name.split("_"), ours.split("_")
    if len(words) < 2 or not re.match(r"TTS_|ASR_|ALIGNER_|MAX_", ours):
        return False
    return set(words) < set(own_words) or (words[:2] == own_words[:2] and len(words) > 2)
