"""What the documents promise is there: settings with their defaults, commands, links."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from test_house import MAY_IMPORT

from qwen3_audio.audio.formats import FORMATS
from qwen3_audio.cli import COMMANDS
from qwen3_audio.engine import asr_prompt, guards, listening, memory, stacks
from qwen3_audio.fake import FakeBackend
from qwen3_audio.languages import OPENAI_VOICES, SPEAKERS
from qwen3_audio.sentences import MAX_PART_CHARS, MAX_WHOLE_CHARS
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import VARIABLES, Settings
from qwen3_audio.web import errors, schemas
from qwen3_audio.web.app import create_app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SETTING = re.compile(r"^### `(?P<name>[A-Z_]+)`\n\nDefault: (?P<default>`[^`]*`|unset)", re.M)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_setting_has_a_heading_with_its_default() -> None:
    documented = {
        match["name"]: match["default"] for match in SETTING.finditer(read("docs/settings.md"))
    }
    assert set(documented) == set(VARIABLES)
    for row in fields(Settings):
        spelt = str(row.default).lower() if isinstance(row.default, bool) else row.default
        value = "unset" if row.default is None else f"`{spelt}`"
        assert documented[row.name.upper()] == value, row.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target = match["target"].partition("#")[0]
        if target and "://" not in target:
            assert (page.parent / target).exists(), match[0]


def test_the_readme_names_every_command() -> None:
    text = read("README.md")
    missing = [name for name in COMMANDS if f"qwen3-audio {name}" not in text]
    assert not missing


def test_the_variables_that_pages_name_exist() -> None:
    prefixes = "TTS_|ASR_|ALIGNER_|QWEN_TTS_|MODEL_|BATCH_DISCOUNT_"
    for page in PAGES:
        for name in re.findall(rf"\b((?:{prefixes})[A-Z_]*[A-Z])\b", page.read_text("utf-8")):
            assert name in VARIABLES, f"{page.name}: {name}"


def slug(heading: str) -> str:
    """A heading's anchor, as the usual viewers make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_in_links_are_headings(page: Path) -> None:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target, _, anchor = match["target"].partition("#")
        if anchor and "://" not in target:
            text = (page.parent / target if target else page).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", text, re.M)
            assert anchor in map(slug, headings), match[0]


def test_every_route_has_a_heading_and_every_heading_a_route() -> None:
    app = create_app(SpeechService(FakeBackend(), Settings()), Settings())
    routes = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert set(re.findall(r"^## `(\w+ /.*)`$", read("docs/api.md"), re.M)) == routes


def documented_fields(text: str, heading: str) -> set[str]:
    """The names in the first cells of the tables between a heading and the next of its level."""
    level = heading.split(" ")[0]
    part = text.split(f"\n{heading}\n")[1].split(f"\n{level} ")[0]
    return {
        name
        for cell in re.findall(r"^\| (`.*?) \|", part, re.M)
        for name in re.findall(r"`(\w+)`", cell)
    }


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        (("## `POST /v1/audio/speech`", "## Speak"), schemas.SPEECH),
        (("## `POST /v1/audio/transcriptions`", "## Transcribe"), schemas.TRANSCRIPTION),
    ],
    ids=["speech", "transcription"],
)
def test_every_field_of_a_body_is_in_the_tables(
    heading: tuple[str, str], schema: dict[str, Any]
) -> None:
    bodies = schema["openapi_extra"]["requestBody"]["content"].values()
    fields_of_it = {name for body in bodies for name in body["schema"]["properties"]}
    assert fields_of_it <= documented_fields(read("docs/api.md"), heading[0])
    assert fields_of_it <= documented_fields(read("README.md"), heading[1])


def test_every_error_has_its_row() -> None:
    text = read("docs/api.md")
    of_stores_alone = {"rate_limit_exceeded", "storage_full"}
    for kind in (*errors.STATUS.values(), *errors.FRAMEWORK.values(), errors.INTERNAL):
        row = re.search(rf"^\| {kind.status} \|[^|]*`{kind.code}`", text, re.M)
        assert row or kind.code in of_stores_alone, kind


def test_every_figure_of_the_server_has_its_row() -> None:
    service = SpeechService(FakeBackend(), Settings())
    lines = create_app(service, Settings()).state.metrics.render().decode()
    shown = set(re.findall(r"^# TYPE (\w+)", lines, re.M))
    text = read("docs/api.md")
    for name in shown - {name for name in shown if name.endswith("_created")}:
        short = name.removeprefix("qwen3_audio")
        assert f"`{name}`" in text or f"`{short}`" in text, name


def test_formats_voices_and_settings_are_in_the_readme() -> None:
    text = read("README.md")
    for name, row in FORMATS.items():
        assert f"| `{name}` | `{row.content_type}` |" in text
    for name, speaker in OPENAI_VOICES.items():
        assert f"| `{name}` | {speaker} |" in text
    assert all(f"`{name}`" in text for name in (*SPEAKERS, *VARIABLES))


def test_the_numbers_of_the_guards_are_those_of_the_code() -> None:
    text = read("docs/architecture.md")
    for words in (
        f"{guards.FRAMES_PER_TEXT_TOKEN} frames a text token + {guards.BUDGET_EXTRA_S:g} s",
        f"{guards.LOOP_S:g} s of exactly repeating frames, period at most"
        f" {guards.MAX_LOOP_PERIOD} frames",
        f"{guards.SILENCE_S:g} s under \u221260 dBFS",
        f"{asr_prompt.token_limit(0)} + {asr_prompt.token_limit(1) - 64} tokens a second",
        f"1\u2013{asr_prompt.MAX_PERIOD} tokens, {asr_prompt.MIN_REPEATS} times",
        f"under \u2212{-asr_prompt.NO_SPEECH_DBFS:g} dBFS",
        f"over {MAX_WHOLE_CHARS} characters becomes parts of at most {MAX_PART_CHARS}",
        f"{stacks.MAX_PREFILL_TOKENS:,} rows",
        f"{memory.SLOTS['cpu']} slots a model on a CPU, {memory.SLOTS['cuda']} on a GPU",
        f"{memory.LISTENING_SLOTS['cuda']} for recognition",
        f"{memory.TYPICAL_POSITIONS:,} positions a slot",
    ):
        assert words in text
    assert guards.SILENCE_LEVEL == 10 ** (-60 / 20)
    assert f"top_k {listening.DEFAULT_TOP_K} unless given" in read("docs/models.md")


def test_every_part_of_the_package_is_in_the_architecture() -> None:
    text = read("docs/architecture.md")
    named = {part for part in MAY_IMPORT if f"{part}.py" in text or f"{part}/" in text}
    assert set(MAY_IMPORT) - named <= {"__init__", "__main__"}
