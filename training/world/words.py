"""The curated word lists: one plain text file for each category, read once.

An entry is one word, or its forms with strokes between them (`dog/dogs`, `ride/rides/-/riding`);
a hyphen stands for a form that is not used, an underscore for the space of an entry of two words.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


def read_lines(name: str) -> list[str]:
    """Lines of a file of this folder, without comments and empty ones."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


@cache
def entries(category: str) -> tuple[tuple[str, ...], ...]:
    """The entries of a category, each as its forms."""
    pieces = " ".join(read_lines(f"words/{category}.txt")).split()
    return tuple(tuple(piece.replace("_", " ").split("/")) for piece in pieces)


@cache
def forms(category: str, number: int) -> tuple[str, ...]:
    """The form with this number (0: the first) of every entry that has it."""
    return tuple(e[number] for e in entries(category) if len(e) > number and e[number] != "-")


@cache
def categories() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (FOLDER / "words").glob("*.txt")))


@cache
def all_words() -> tuple[str, ...]:
    """Every word as it is written inside a sentence, in alphabetical order, each once.

    Words are compared in lower case; `march` and `March` would be one word.
    """
    found = {word.lower(): word for word in sorted(_every_word(), reverse=True)}
    return tuple(found[key] for key in sorted(found))


def _every_word() -> Iterator[str]:
    for category in categories():
        for entry in entries(category):
            for form in entry:
                yield from form.replace("-", "").split()


@cache
def homophone_sets() -> tuple[frozenset[str], ...]:
    """Words that sound alike, in lower case."""
    return tuple(frozenset(line.lower().split()) for line in read_lines("homophones.txt"))


@cache
def plain_words() -> tuple[str, ...]:
    """Words for random strings: without function words, single letters and homophones."""
    function_words = {form.lower() for entry in entries("function_words") for form in entry}
    alike = frozenset().union(*homophone_sets())
    return tuple(
        word for word in all_words() if len(word) > 1 and word.lower() not in function_words | alike
    )


def normalise(text: str) -> str:
    """Lower case, words with single spaces between them, no punctuation but the apostrophe."""
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower())
    return " ".join(kept.split())
