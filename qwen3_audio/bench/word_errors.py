"""Word and character error rates over all clips together, as Whisper's authors normalise text."""

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from qwen3_audio.errors import StartError
from qwen3_audio.languages import ASR_LANGUAGES, parse_language

PACKAGES = {"jiwer": "jiwer", "whisper_normalizer": "whisper-normalizer"}
INSTALL = 'pip install "qwen3-audio[bench]"'
NOT_JUDGED = "not judged"  # what random weights hear means nothing


def check_packages(packages: dict[str, str], what: str) -> None:
    """StartError with the command that installs them, before anything runs."""
    missing = [name for module, name in packages.items() if find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise StartError(f"{what} needs {' and '.join(missing)}, which {verb} not here: {INSTALL}")


def count_errors(said: Sequence[str], heard: Sequence[str], language: str | None) -> dict[str, Any]:
    """Rates and counts; a clip that failed is given as "", so that all its words are missing."""
    import jiwer

    normalise = _normaliser(language)
    pairs = [(normalise(one), normalise(two)) for one, two in zip(said, heard, strict=True)]
    pairs = [pair for pair in pairs if pair[0].strip()]
    if not pairs:
        return {"wer": NOT_JUDGED, "cer": NOT_JUDGED, "num_clips": 0}
    references, answers = [list(side) for side in zip(*pairs, strict=True)]
    words = jiwer.process_words(references, answers)
    letters = jiwer.process_characters(references, answers)
    return {
        "wer": round(words.wer, 4),
        "cer": round(letters.cer, 4),
        "num_clips": len(pairs),
        "num_words": words.hits + words.substitutions + words.deletions,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
    }


def _normaliser(language: str | None) -> Callable[[str], str]:
    """English has rules of its own for numbers, spelling and short forms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an escape in its source that Python frowns upon
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    is_english = language is None or parse_language(language, ASR_LANGUAGES) == "English"
    normalise: Callable[[str], str] = (
        EnglishTextNormalizer() if is_english else BasicTextNormalizer()
    )
    return normalise
