"""What the documents promise is there: settings with their defaults, commands, links."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from qwen3_audio.cli import COMMANDS
from qwen3_audio.settings import VARIABLES, Settings

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
        value = "unset" if row.default is None else f"`{row.default}`".replace("True", "true")
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
