"""The one door to the environment: defaults, values, and names that are nearly right."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_audio.cli import build_parser
from qwen3_audio.commands.arguments import read_settings
from qwen3_audio.errors import StartError
from qwen3_audio.settings import VARIABLES, Settings

OTHER_PROGRAMS = (
    *("PATH", "HOME", "HOSTNAME", "HOSTTYPE", "HOSTS", "PORTAGE", "PORTS", "PORT_8000_TCP"),
    *("GH_TOKEN", "NPM_TOKEN", "GITHUB_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT"),
    *("HF_TOKEN_PATH", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_DIRS"),
    *("TEST_DATABASE_URL", "MY_DATABASE_URL", "PGDATA", "MAX_WORKERS", "WEB_CONCURRENCY"),
    *("ASR_MODEL_PORT", "ASR_MODEL_SERVICE_HOST", "MAX_JOBS", "TTS_VOICE", "ASR_HOME"),
    *("QWEN_TTS_PORT", "QWEN_TTS_SERVICE_HOST", "QWEN_TTS_SERVICE_PORT", "TTS_PORT", "port"),
    *("CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY", "DATE", "SORT", "GHOST", "", "_"),
)
MISSPELT = {
    "QWEN_TTS_DEVISE": "QWEN_TTS_DEVICE",
    "QWEN_TTS_DTYP": "QWEN_TTS_DTYPE",
    "QWEN_DEVICE": "QWEN_TTS_DEVICE",
    "qwen_tts_device": "QWEN_TTS_DEVICE",
    "TTS_CUSTOM_VOICE_MODEL_PATH": "TTS_CUSTOMVOICE_MODEL_PATH",
    "TTS_CUSTOM_MODEL_PATH": "TTS_CUSTOMVOICE_MODEL_PATH",
    "TTS_VOICE_DESIGN_MODEL_PATH": "TTS_VOICEDESIGN_MODEL_PATH",
    "TTS_BASE_MODEL": "TTS_BASE_MODEL_PATH",
    "ASR_MODELPATH": "ASR_MODEL_PATH",
    "ASR_MODEL": "ASR_MODEL_PATH",
    "ASR_PATH": "ASR_MODEL_PATH",
    "ASR_MODEL_DIR": "ASR_MODEL_PATH",
    "QWEN_TTS_ATTENTION": "QWEN_TTS_ATTN",
    "MAX_UPLOAD": "MAX_UPLOAD_MB",
    "MAX_UPLOAD_SIZE": "MAX_UPLOAD_MB",
    "MAX_BATCH": "MAX_BATCH_SIZE",
    "MODEL_CUSTOMVOICE_REPO": "MODEL_CUSTOM_REPO",
    "MODEL_DIR": "MODELS_DIR",
    "DATADIR": "DATA_DIR",
    "DATABASE_URI": "DATABASE_URL",
    "HF_TOKNE": "HF_TOKEN",
    "PROT": "PORT",
    "WORKER": "WORKERS",
    "ADMIN_TOKENS": "ADMIN_TOKEN",
    "MAX_INPUT_CHAR": "MAX_INPUT_CHARS",
    "CORS_ORIGIN": "CORS_ORIGINS",
}


def refusal(env: dict[str, str], options: dict[str, str] | None = None) -> str:
    with pytest.raises(StartError) as caught:
        Settings.from_env(env, options)
    return str(caught.value)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.workers) == ("0.0.0.0", 8000, 1)
    assert (settings.models_dir, settings.data_dir) == (Path("models"), Path("data"))
    assert settings.qwen_tts_device is None
    assert settings.qwen_tts_dtype == "bfloat16"
    assert settings.qwen_tts_attn == "flash_attention_2"
    assert settings.database == "sqlite:///data/qwen3-audio.db"
    assert (settings.max_input_chars, settings.max_text_len) == (4096, 3000)
    assert (settings.max_upload_mb, settings.max_audio_s, settings.max_reference_s) == (
        *(512, 14_400, 60),
    )
    assert (settings.max_waiting, settings.max_running) == (512, None)
    assert settings.is_local
    assert settings.public_discovery


def test_an_empty_value_means_unset_except_for_attention() -> None:
    env = {name: " " if name == "PORT" else "" for name in VARIABLES}
    settings = Settings.from_env(env)
    assert settings.qwen_tts_attn == ""
    assert settings == Settings(qwen_tts_attn="")


def test_values_are_read() -> None:
    settings = Settings.from_env(
        {
            "PORT": " 9 ",
            "QWEN_TTS_DEVICE": "CUDA",
            "QWEN_TTS_DTYPE": "Float16",
            "MODELS_DIR": "~/models",
            "ASR_MODEL_PATH": "Qwen/Qwen3-ASR-0.6B",
            "MAX_TRANSCRIPT_ERROR": "0.5",
            "PUBLIC_DISCOVERY": "no",
            "CORS_ORIGINS": "https://a.example, https://b.example,",
        }
    )
    assert settings.port == 9
    assert settings.qwen_tts_device == "cuda:0"
    assert settings.qwen_tts_dtype == "float16"
    assert settings.models_dir == Path.home() / "models"
    assert settings.asr_model_path == "Qwen/Qwen3-ASR-0.6B"
    assert settings.max_transcript_error == 0.5
    assert not settings.public_discovery
    assert settings.allowed_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("PORT", "eighty", "is not a whole number from 0 to 65535"),
        ("PORT", "65536", "is not from 0 to 65535"),
        ("PORT", "-1", "is not from 0 to 65535"),
        ("PORT", "1e3", "is not a whole number"),
        ("PORT", "٣", "is not a whole number"),
        ("PORT", "9" * 5000, "is not a whole number"),
        ("WORKERS", "0", "is not from 1"),
        ("MAX_INPUT_CHARS", "100001", "is not from 1 to 100000"),
        ("MAX_WAITING", "-5", "is not from 0"),
        ("MAX_UPLOAD_MB", "0", "is not from 1"),
        ("MAX_AUDIO_S", "-1", "is not from 1"),
        ("MAX_TRANSCRIPT_ERROR", "nan", "is not a number from 0"),
        ("BATCH_DISCOUNT_MIN", "inf", "is not a number from 0 to 1"),
        ("QWEN_TTS_DEVICE", "gpu", "is not a device: cpu, cuda, cuda:0"),
        ("QWEN_TTS_DEVICE", "cuda:x", "is not a device"),
        ("QWEN_TTS_DTYPE", "bf16", "is not one of bfloat16, float16, float32, int8, fp8"),
        ("OMP_NUM_THREADS", "all", "is not a whole number from 1 to 4096"),
        ("OMP_NUM_THREADS", "0,2", "is not from 1 to 4096"),
        ("QWEN_TTS_ATTN", "flash", "is not one of flash_attention_2"),
        ("PUBLIC_DISCOVERY", "maybe", "is neither true nor false"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_name_and_value(
    name: str, text: str, words: str
) -> None:
    message = refusal({name: text})
    assert message.startswith(f"{name}={text!r} ")
    assert words in message


def test_secrets_are_never_shown() -> None:
    assert "hunter2" not in refusal({"DATABASE_URL": "mysql://root:hunter2@db/x"})
    env = {"ADMIN_TOKEN": "hunter2", "HMAC_SECRET": "hunter2", "HF_TOKEN": "hunter2"}
    settings = Settings.from_env({**env, "DATABASE_URL": "postgresql://me:hunter2@db/x"})
    assert settings.database == "postgresql://me:hunter2@db/x"
    assert "hunter2" not in repr(settings)


def test_the_examples_admin_token_is_refused_and_none_is_local_mode() -> None:
    assert "ADMIN_TOKEN is the example's" in refusal({"ADMIN_TOKEN": "change-me"})
    assert Settings.from_env({"ADMIN_TOKEN": "none"}).is_local
    keyed = Settings.from_env({"ADMIN_TOKEN": "s3cret"})
    assert not keyed.is_local
    assert keyed.allowed_origins == ()
    assert Settings().allowed_origins == ("*",)


def test_values_that_contradict_each_other_are_refused() -> None:
    assert "MIN_BATCH_SIZE" in refusal({"MIN_BATCH_SIZE": "9", "MAX_BATCH_SIZE": "8"})
    assert "BATCH_DISCOUNT_DEFAULT" in refusal({"BATCH_DISCOUNT_MIN": "0.95"})
    assert "SQLite serves one process" in refusal({"WORKERS": "2"})
    assert Settings.from_env({"WORKERS": "2", "DATABASE_URL": "postgresql://db/x"}).workers == 2


def test_options_win_and_are_called_by_their_own_name() -> None:
    assert Settings.from_env({"PORT": "1"}, {"PORT": "2"}).port == 2
    assert refusal({}, {"PORT": "x"}).startswith("--port='x' ")
    assert refusal({}, {"QWEN_TTS_DEVICE": "x"}).startswith("--device='x' ")


@pytest.mark.parametrize(("name", "meant"), MISSPELT.items())
def test_a_misspelt_name_is_refused_with_the_right_one(name: str, meant: str) -> None:
    assert refusal({name: "x"}) == f"Unknown setting {name}: did you mean {meant}?"


@pytest.mark.parametrize("name", OTHER_PROGRAMS)
def test_other_programs_variables_are_ignored(name: str) -> None:
    assert Settings.from_env({name: "x"}) == Settings()


@given(st.sampled_from([name for name in VARIABLES if len(name) > 8]), st.data())
def test_one_slip_in_a_long_name_is_always_noticed(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(name) - 2))
    slips = (
        name[:place] + name[place + 1 :],
        name[:place] + name[place] + name[place:],
        name[:place] + name[place + 1] + name[place] + name[place + 2 :],
        name[:place] + "Q" + name[place + 1 :],
    )
    slip = data.draw(st.sampled_from(slips))
    if slip not in VARIABLES:
        assert "did you mean" in refusal({slip: "x"})


@given(st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=20)))
def test_any_value_is_read_or_refused_in_a_sentence(env: dict[str, str]) -> None:
    try:
        Settings.from_env(env)
    except StartError as error:
        assert "\n" not in str(error)


def test_a_gpu_is_required_by_variable_or_option() -> None:
    assert not Settings.from_env({}).require_gpu
    assert Settings.from_env({"REQUIRE_GPU": "1"}).require_gpu
    arguments = build_parser().parse_args(["serve", "--fake", "--require-gpu"])
    assert read_settings(arguments).require_gpu
    assert not read_settings(build_parser().parse_args(["serve", "--fake"])).require_gpu
