"""What small checkpoints accept to say."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_audio.errors import BadRequest, StartError
from qwen3_audio.scope import Scope

SCOPE = Scope("simple English")


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("Good morning.", "Good morning."),
        ("Crème brûlée, São Paulo", "Creme brulee, Sao Paulo"),
        ("Łódź und Straße", "Lodz und Strasse"),
        ("It’s “fine” — really…", "It's fine, really."),
        ("Hello 👋🏽 world 🌍!", "Hello world!"),
        ("Ｆｕｌｌ ｗｉｄｔｈ １２", "Full width 12"),
        ("room ٤٢", "room 42"),
        ("1234567890123456789012345", "1234567890123456789012345"),
        ("It's 50% off & free, 2+2=4", "It's 50 percent off and free, 2 plus 2 equals 4"),
        ("Wait... what?! Yes!!!", "Wait. what? Yes!"),
        ("at 7:45 (maybe); well-known", "at 7 45, maybe, well known"),
        ("$20, 1,000 and 3.5", "20 dollars, 1000 and 3 point 5"),
        ("First line\nSecond line.\n\nThird", "First line. Second line. Third"),
        ("auto\u00admobile\u200b", "automobile"),
        ("\x01\x02hello", "hello"),
        ("½ cup at −5°", "half cup at minus 5 degrees"),
        ("'quoted' words don't", "quoted words don't"),
        ("...so", "so"),
        ("%", "percent"),
    ],
)
def test_text_becomes_plain_letters(text: str, fitted: str) -> None:
    assert SCOPE.fit(text, param="input") == fitted


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Привет", "Cyrillic"),
        ("你好", "Chinese"),
        ("hello мир", "Cyrillic"),
        ("สวัสดี", "Thai"),
        ("ɓ", "ɓ"),
    ],
)
def test_another_script_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(BadRequest) as error:
        SCOPE.fit(text, param="input")
    assert named in str(error.value)
    assert "simple English" in str(error.value)


@pytest.mark.parametrize("text", ["👋", "…!?", "~", "- - -"])
def test_nothing_to_say_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="no letter and no digit"):
        SCOPE.fit(text, param="input")


@given(st.text(max_size=80))
def test_any_text_is_fitted_or_refused(text: str) -> None:
    try:
        fitted = SCOPE.fit(text, param="input")
    except BadRequest:
        return
    assert re.fullmatch(r"[A-Za-z0-9.,!?' ]+", fitted)
    assert SCOPE.fit(fitted, param="input") == fitted


def test_a_folder_without_the_file_has_no_limits(tmp_path: Path) -> None:
    assert Scope.read(tmp_path) is None
    (tmp_path / "scope.json").write_text('{"about": "simple English"}')
    assert Scope.read(tmp_path) == SCOPE
    whole = {"about": "simple English", "max_chars": 80, "max_s": 9.5, "pause_s": 0.5}
    (tmp_path / "scope.json").write_text(json.dumps(whole))
    assert Scope.read(tmp_path) == Scope("simple English", 80, 9.5, 0.5)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '"about"',
        '{"about": "", "max_chars": 0}',
        '{"about": "", "max_chars": "9"}',
        '{"about": "", "max_chars": 9.5}',
        '{"about": "", "max_s": -1}',
        '{"about": "", "in_context": 0}',
        '{"about": "", "pause_s": -0.1}',
        '{"about": "", "pause_s": 1e9}',
        '{"about": 1}',
        '{"about": "", "max_char": 9}',
    ],
)
def test_a_file_of_another_form_stops_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "scope.json").write_text(content)
    with pytest.raises(StartError, match=r"scope\.json"):
        Scope.read(tmp_path)
