"""What the doctor finds, in plain words, and never a stack trace."""

import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kernel_caches import cache_with_numba_alone, home_with_kernels

from qwen3_audio import doctor
from qwen3_audio.cli import build_parser, run
from qwen3_audio.doctor import Finding, Level, examine
from qwen3_audio.engine.gpu import availability
from qwen3_audio.machine import allowed_cores, available_memory_bytes
from qwen3_audio.settings import VARIABLES, Settings


@pytest.fixture(autouse=True)
def bare_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv("HOME", str(home_with_kernels(tmp_path_factory.getbasetemp())))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def problems(settings: Settings, *model_paths: str) -> list[str]:
    findings = examine(settings, model_paths, is_demo=False)
    return [finding.text for finding in findings if finding.level is Level.PROBLEM]


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(build_parser().parse_args(["doctor", *arguments]))
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def test_all_is_well_with_a_whole_checkpoint(
    capsys: pytest.CaptureFixture[str], tiny_asr: Path, no_gpu: None
) -> None:
    code, text = say(capsys, "--model-path", str(tiny_asr / "tiny-asr"))
    assert code == 0
    assert "It would start" in text
    for words in ("asr in ", "device: cpu, bfloat16", "bfloat16: ", "cores", "memory: ", "PyAV: "):
        assert words in text


def test_the_troubleshooting_cases_are_always_told(
    capsys: pytest.CaptureFixture[str], no_gpu: None
) -> None:
    _, text = say(capsys)
    for words in ("transcript of the reference must match", "HF_TOKEN", "be writable"):
        assert words in text
    for words in ("driver", "NVIDIA Container Toolkit", "compose file"):
        assert words in text


def test_nothing_configured_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = say(capsys)
    assert code == 1
    assert "models: none is named" in text
    assert say(capsys, "--demo")[0] == 0


def test_a_misspelt_setting_is_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_DIR", "x")
    code, text = say(capsys)
    assert code == 1
    assert "settings: Unknown setting MODEL_DIR: did you mean MODELS_DIR?" in text


def test_a_broken_checkpoint_is_a_problem_that_names_the_file(
    tiny_asr: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_asr / "tiny-asr", tmp_path / "broken")
    (folder / "merges.txt").unlink()
    (problem,) = problems(Settings(asr_model_path=str(folder)))
    assert "merges.txt is missing" in problem
    (problem,) = problems(Settings(asr_model_path="./gone"))
    assert "There is no folder ./gone" in problem


def test_two_of_a_kind_are_a_problem(tiny_asr: Path) -> None:
    path = str(tiny_asr / "tiny-asr")
    (problem,) = problems(Settings(), path, path)
    assert "one of each kind" in problem


def test_an_id_that_is_not_here_would_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(asr_model_path="Qwen/Qwen3-ASR-Nowhere")
    notes = [finding.text for finding in examine(settings, [], is_demo=False)]
    assert "would be downloaded to models, without HF_TOKEN" in notes[0]
    assert problems(settings) == []


def test_a_named_gpu_that_is_absent_is_a_problem(no_gpu: None) -> None:
    found = problems(Settings(qwen_tts_device="cuda:0"), "gone/x")
    assert "torch sees 0 GPUs" in found[-1]
    assert "QWEN_TTS_DEVICE=cpu" in found[-1]


@pytest.fixture
def some_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver works, and there is a compiler for Triton."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10e9, 24e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(availability, "probe_gpu", lambda device: None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def test_a_gpu_is_described(
    some_gpu: None, monkeypatch: pytest.MonkeyPatch, tiny_asr: Path
) -> None:
    texts = [finding.text for finding in examine(Settings(), [], is_demo=True)]
    assert "device: cuda:0, Some GPU, bfloat16, 10.0 of 24.0 GB free" in texts
    assert "products: Triton kernels" in texts
    models = [str(tiny_asr / "tiny-asr")]
    found = [finding.text for finding in examine(Settings(), models, is_demo=False)]
    assert "memory: 128 requests of asr fit at once" in found
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10_000_000, 24e9))
    findings = examine(Settings(), models, is_demo=False)
    (short,) = [one for one in findings if "The GPU has 0.01 GB free" in one.text]
    assert short.level is Level.NOTE
    (text,) = problems(Settings(require_gpu=True), *models)
    assert "The GPU has 0.01 GB free" in text


@pytest.mark.parametrize(
    ("compiler", "is_found"), [("gcc", True), ("clang", True), ("cc", False), ("", False)]
)
def test_a_gpu_without_the_compiler_that_triton_needs_is_noted(
    some_gpu: None, monkeypatch: pytest.MonkeyPatch, compiler: str, is_found: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name == compiler else None)

    def found(settings: Settings) -> Finding:
        findings = examine(settings, [], is_demo=True)
        return next(one for one in findings if one.text.startswith("products: "))

    assert found(Settings()).level is (Level.OK if is_found else Level.NOTE)
    if not is_found:
        assert "no C compiler (gcc, clang or CC), and what Triton has" in found(Settings()).text
        assert found(Settings(require_gpu=True)).level is Level.PROBLEM
    monkeypatch.setenv("CC", "cc")
    assert (found(Settings()).level is Level.OK) is (compiler == "cc")


def test_8_bit_floats_are_named_where_they_can_be_used_and_a_problem_elsewhere(
    some_gpu: None, monkeypatch: pytest.MonkeyPatch, tiny_asr: Path
) -> None:
    models, fp8 = [str(tiny_asr / "tiny-asr")], Settings(qwen_tts_dtype="fp8")
    sentence = "device: QWEN_TTS_DTYPE=fp8 is for GPUs"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (text,) = problems(fp8, *models)
    assert text.startswith(f"{sentence}, but torch sees 0 GPUs")
    (text,) = problems(replace(fp8, qwen_tts_device="cpu"), *models)
    assert text == f"{sentence}; on a CPU use int8 or bfloat16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    (text,) = problems(fp8, *models)
    assert text.endswith(
        "8-bit floats need compute capability 8.9, and this card has 8.0; use bfloat16"
    )
    monkeypatch.setattr("qwen3_audio.engine.device.why_no_fp8", lambda device: None)
    texts = [finding.text for finding in examine(fp8, models, is_demo=False)]
    device = "device: cuda:0, Some GPU, fp8 (feed-forwards, all else in bfloat16),"
    assert f"{device} 10.0 of 24.0 GB free" in texts
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10_000_000, 24e9))
    (text,) = problems(fp8, *models)
    assert "The GPU has 0.01 GB free" in text


def test_a_required_gpu_that_is_absent_is_a_problem(no_gpu: None, tiny_asr: Path) -> None:
    found = problems(Settings(require_gpu=True), str(tiny_asr / "tiny-asr"))
    assert found[0].startswith("device: REQUIRE_GPU is set; torch sees 0 GPUs")


@pytest.mark.parametrize("name", ["torch", "av"])
def test_a_package_that_cannot_be_imported_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(wanted: str) -> object:
        if wanted == name:
            raise ImportError(f"no {wanted}")
        return __import__(wanted)

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    findings = examine(Settings(), [], is_demo=True)
    (problem,) = (finding.text for finding in findings if finding.level is Level.PROBLEM)
    assert problem.endswith(f"no {name}")


def test_missing_codecs_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    av = SimpleNamespace(codecs_available={"aac", "flac"}, __version__="1")
    monkeypatch.setattr(doctor.importlib, "import_module", lambda _: av)
    assert list(doctor._examine_codecs()) == [
        Finding(Level.PROBLEM, "PyAV 1: no libmp3lame, libopus")
    ]


def test_weights_larger_than_memory_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, tiny_asr: Path, no_gpu: None
) -> None:
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 1000)
    (problem,) = problems(Settings(), str(tiny_asr / "tiny-asr"))
    assert "the weights alone are" in problem


def products_texts(
    monkeypatch: pytest.MonkeyPatch,
    *,
    features: str,
    dtype: str = "bfloat16",
    cache: Path | None = None,
) -> list[str]:
    monkeypatch.setattr(doctor, "processor_features", lambda: frozenset(features.split()))
    settings = Settings(qwen_tts_device="cpu", qwen_tts_dtype=dtype, xdg_cache_home=cache)
    findings = examine(settings, [], is_demo=True)
    assert all(finding.level is not Level.PROBLEM for finding in findings)
    return [f.text for f in findings if f.text.startswith(("products", "int8"))]


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("features", "dtype", "words"),
    [
        ("avx2 fma", "bfloat16", "this processor has no AVX-512: the kernels are compiled without"),
        ("fp asimd", "int8", "this processor is an ARM and has no AVX-512"),
        ("avx2 avx512f", "int8", "this processor has no AVX-512 VNNI"),
    ],
)
def test_a_processor_without_the_fast_loops_is_noted(
    monkeypatch: pytest.MonkeyPatch, features: str, dtype: str, words: str
) -> None:
    used, noted = products_texts(monkeypatch, features=features, dtype=dtype)
    assert used.startswith(f"products: compiled kernels in {dtype}, threads: ")
    assert words in noted


@pytest.mark.compiler
def test_the_fastest_is_named_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    (used,) = products_texts(monkeypatch, features="avx512f avx512_vnni", dtype="int8")
    assert used.startswith("products: compiled kernels in int8")


def test_without_a_compiler_and_numba_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delitem(sys.modules, "qwen3_audio.kernels.numba_kernel", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr("qwen3_audio.engine.device.has_bfloat16", lambda: True)
    used, int8 = products_texts(monkeypatch, features="avx2", dtype="int8", cache=tmp_path)
    assert used.startswith("products: torch in bfloat16, because there is no C compiler (cc)")
    assert "gcc or clang" in used and "pip install 'qwen3-audio[cpu]'" in used
    assert "weights stay in bfloat16: all works, in more memory" in int8


@pytest.mark.numba
def test_numba_is_named_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = cache_with_numba_alone(tmp_path_factory.getbasetemp())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("qwen3_audio.engine.device.has_bfloat16", lambda: True)
    (used,) = products_texts(monkeypatch, features="avx2", cache=cache)
    assert used.startswith("products: numba in bfloat16, because there is no C compiler")
    assert "pip install" not in used


def test_a_port_in_use_is_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, taken_port: int
) -> None:
    monkeypatch.setenv("PORT", str(taken_port))
    code, text = say(capsys, "--demo")
    assert code == 1
    assert f"address: Port {taken_port} is in use" in text


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


def test_a_folder_that_is_not_writable_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    texts = [finding.text for finding in doctor._examine_folders(Settings())]
    assert texts[0] == "MODELS_DIR: models is not writable for this user"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "25000", "cpu/cpu.cfs_period_us": "100000"}, 0.25),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
        ({"cpu.max": ""}, None),
        ({"cpu.max": "max"}, None),
        ({"cpu.max": "100000 0"}, None),
    ],
)
def test_the_cgroups_share_of_the_processor_counts(
    tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    unlimited = allowed_cores(tmp_path / "nowhere")
    assert unlimited >= 1
    assert allowed_cores(tmp_path) == (cores or unlimited)


def test_the_cgroups_share_of_memory_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  16 kB\nMemAvailable:  8 kB\n")
    assert available_memory_bytes(meminfo, tmp_path) == 8192
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_memory_bytes(meminfo, tmp_path) == 4000
    assert available_memory_bytes(tmp_path / "gone", tmp_path) == 4000
    assert available_memory_bytes(tmp_path / "gone", tmp_path / "gone") is None
