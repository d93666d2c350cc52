"""Languages by any of their names, and the voices of document 1."""

import pytest

from qwen3_audio.errors import BadRequest
from qwen3_audio.languages import (
    ALIGNER_LANGUAGES,
    ASR_LANGUAGES,
    OPENAI_VOICES,
    SPEAKERS,
    TTS_LANGUAGES,
    is_spaced,
    language_code,
    parse_language,
)


@pytest.mark.parametrize("value", [None, "", "  ", "auto", "Auto", "AUTO", "None", "none"])
def test_nothing_and_auto_mean_detect(value: str | None) -> None:
    assert parse_language(value, ASR_LANGUAGES) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("en", "English"),
        ("eng", "English"),
        ("EN-us", "English"),
        ("en_GB", "English"),
        (" English ", "English"),
        ("eNGLISH", "English"),
        ("cn", "Chinese"),
        ("zh", "Chinese"),
        ("zh-CN", "Chinese"),
        ("zh-Hant-TW", "Chinese"),
        ("zho", "Chinese"),
        ("zh-HK", "Cantonese"),
        ("zh-Hant-HK", "Cantonese"),
        ("zh_yue", "Cantonese"),
        ("yue", "Cantonese"),
        ("de-AT", "German"),
        ("pt-BR", "Portuguese"),
        ("tl", "Filipino"),
        ("fil-PH", "Filipino"),
        ("ell", "Greek"),
        ("fa", "Persian"),
    ],
)
def test_names_codes_and_tags_are_understood(value: str, name: str) -> None:
    assert parse_language(value, ASR_LANGUAGES) == name


@pytest.mark.parametrize("value", ["klingon", "xx", "e n", "-", "english!", "9", "'; --", "zh/CN"])
def test_an_unknown_language_is_refused_with_the_choices(value: str) -> None:
    with pytest.raises(BadRequest, match=r"Unknown language.*auto.*English") as refusal:
        parse_language(value, TTS_LANGUAGES)
    assert refusal.value.param == "language"
    for name in TTS_LANGUAGES:
        assert name in str(refusal.value)


def test_a_long_value_does_not_make_a_long_message() -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_language("x" * 10_000, ["English"])
    assert len(str(refusal.value)) < 200


def test_a_language_that_this_model_lacks_is_refused() -> None:
    with pytest.raises(BadRequest, match="Unknown language 'hu'"):
        parse_language("hu", TTS_LANGUAGES)


def test_hong_kong_is_chinese_where_the_model_has_no_cantonese() -> None:
    assert parse_language("zh-HK", TTS_LANGUAGES) == "Chinese"
    with pytest.raises(BadRequest):
        parse_language("Cantonese", TTS_LANGUAGES)


def test_a_checkpoint_may_spell_its_languages_small_and_have_its_own() -> None:
    assert parse_language("de", ["german", "elvish"]) == "German"
    assert parse_language("ELVISH", ["german", "elvish"]) == "Elvish"


def test_every_name_and_code_leads_back_to_its_language() -> None:
    for name in ASR_LANGUAGES:
        code = language_code(name)
        assert code is not None
        assert parse_language(code, ASR_LANGUAGES) == name
        assert parse_language(name.upper(), ASR_LANGUAGES) == name
    assert language_code("") is None


def test_the_tables_have_the_published_sizes() -> None:
    assert [len(set(names)) for names in (ASR_LANGUAGES, TTS_LANGUAGES, ALIGNER_LANGUAGES)] == [
        30,
        10,
        11,
    ]
    assert set(TTS_LANGUAGES) < set(ASR_LANGUAGES)
    assert set(ALIGNER_LANGUAGES) < set(ASR_LANGUAGES)


def test_only_four_languages_are_written_without_spaces() -> None:
    unspaced = [name for name in ASR_LANGUAGES if not is_spaced(name)]
    assert unspaced == ["Chinese", "Cantonese", "Thai", "Japanese"]
    assert is_spaced("")


def test_each_openai_voice_has_a_speaker() -> None:
    assert len(OPENAI_VOICES) == 13
    assert set(OPENAI_VOICES.values()) == set(SPEAKERS)
    assert (OPENAI_VOICES["alloy"], OPENAI_VOICES["nova"]) == ("Vivian", "Ono_Anna")
