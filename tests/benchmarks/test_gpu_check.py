"""The check of a GPU, tried on a CPU with tiny models: its needs, its words, what it survives."""

import ast
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check import kernels, result, schedule
from benchmarks.gpu_check.part import Part
from benchmarks.gpu_check.schedule import (
    MORE_PARTS,
    PARTS,
    TINY_PARTS,
    Results,
    read_report,
    run_all,
    run_part,
)

ROOT = Path(__file__).parent.parent.parent
LEFT_OUT = {"tiny": {"state": "left out", "error": "no time was left"}}
ABOUT = {"date": "2026-01-01", "commit": "abc"}
NOT_NEEDED = (
    "fastapi starlette pydantic uvicorn sqlalchemy alembic av soxr huggingface_hub tqdm numba"
    " prometheus_client transformers multipart jiwer matplotlib whisper_normalizer"
)


def program_files() -> list[Path]:
    folder = ROOT / "benchmarks" / "gpu_check"
    return [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("__")]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one part found, with everything imported and all that is not needed absent."""
    out = tmp_path_factory.mktemp("heard")
    modules = ", ".join(f"benchmarks.gpu_check.{path.stem}" for path in program_files())
    arguments = ["--device", "cpu", "--quick", "--parts", "listening-tiny", "--out", str(out)]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED.split()!r}));"
        f" import {modules}; from benchmarks.gpu_check.__main__ import main;"
        f" sys.exit(main({arguments!r}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    kept = json.loads((out / "gpu-cpu.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = kept["parts"]["listening-tiny"]
    return found


def part_of(name: str, home: Path) -> Part:
    return Part(name, "cpu", home, home / "report.lines", time.monotonic() + 120, is_quick=True)


@pytest.mark.slow
def test_it_needs_torch_numpy_safetensors_and_tokenizers_alone(heard: dict[str, Any]) -> None:
    assert (heard["state"], heard["figures"]["start"]["runner"]) == ("done", "AsrRunner")


@pytest.mark.slow
def test_a_part_measures_and_the_table_shows_it(heard: dict[str, Any], tmp_path: Path) -> None:
    figures = heard["figures"]["2 of 2 s"]
    assert (figures["requests"] >= 4, figures["cut_short"]) == (True, 0)
    path = result.write(tmp_path, "Some GPU 80GB", {"listening-tiny": heard}, ABOUT)
    assert path.name == "gpu-some-gpu-80gb.json"
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"| tiny, 2 of 2 s | {figures['latency_ms']} |" in text
    assert "## Memory" in text


@pytest.mark.slow
def test_what_was_measured_before_stays(heard: dict[str, Any], tmp_path: Path) -> None:
    result.write(tmp_path, "card", {"listening-tiny": heard}, ABOUT)
    failed = {"state": "failed", "error": "RuntimeError: CUDA error", "figures": {}, "checks": {}}
    path = result.write(tmp_path, "card", {"tiny": failed}, ABOUT | {"commit": "def"})
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert list(kept["parts"]) == ["listening-tiny", "tiny"]
    assert [one["measured"]["commit"] for one in kept["parts"].values()] == ["abc", "def"]
    assert kept["verdicts"] == {"tiny: failed, RuntimeError: CUDA error": False}


def test_bounds_are_judged_where_their_figure_was_measured() -> None:
    figures = {"1 streams": {"two_frames_ms": 15.0, "step_ms": 5.5}}
    verdicts = result.judge({"speech-1.7b": {"state": "done", "figures": figures}})
    assert verdicts == {
        "speech-1.7b, 1 streams: two_frames_ms 15.0 <= 16.0": True,
        "speech-1.7b, 1 streams: step_ms 5.5 <= 5.0": False,
    }


def test_a_part_that_fails_is_reported_with_its_place(tmp_path: Path) -> None:
    part = part_of("listening-tiny", tmp_path)
    (tmp_path / "tiny-asr").mkdir()
    assert run_part(part, TINY_PARTS["listening-tiny"]) == 1
    report = read_report(part.report)
    error: str = report["error"]
    assert error.startswith("RuntimeError: ")
    assert "has no config.json (checkpoints.py:" in error
    assert report["traceback"][-1].startswith("benchmarks/gpu_check/checkpoints.py:")


def test_what_the_engine_warns_of_is_noted_once(tmp_path: Path) -> None:
    part = part_of("tiny", tmp_path)
    noting = schedule.Noting(part)
    for _ in range(2):
        noting.handle(logging.makeLogRecord({"msg": "no graph\nof 3", "levelno": logging.WARNING}))
    assert read_report(part.report)["notes"] == ["no graph"]


def test_a_part_that_dies_or_hangs_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        name, report = command[4], Path(command[command.index("--report") + 1])
        report.write_text('{"figures": {"a": {"b": 1}}}\n{"figures": {"c', encoding="utf-8")
        if name == "tiny":
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, -11 if name == "machine" else 0)

    monkeypatch.setattr(schedule.subprocess, "run", fake)
    results = run_parts(["machine", "tiny", "forced-tiny"], tmp_path, ["--device", "cpu"])
    states = {name: (one["state"], one.get("error")) for name, one in results.items()}
    assert states == {
        "machine": ("failed", "ended with code -11"),
        "tiny": ("timed out", "ended after 880 s"),
        "forced-tiny": ("done", None),
    }
    assert all(one["figures"] == {"a": {"b": 1}} for one in results.values())
    assert not list(tmp_path.glob("*.lines"))


def test_what_matters_most_comes_first_and_all_of_it_fits_the_time() -> None:
    """The figures that are promised, then right or wrong, then what explains them."""
    seconds = [planned.budget_s for planned in PARTS.values()]
    assert sum(seconds) + schedule.GRACE_S <= 60 * program.MINUTES
    assert 60 * program.MINUTES + schedule.GRACE_S < 60 * 9
    assert min(seconds) >= schedule.SMALLEST_S
    assert list(PARTS) == [
        *("machine", "speech-1.7b", "listening-1.7b", "tiny", "forced-1.7b"),
        *("kernels", "speech-0.6b", "official-1.7b"),
    ]
    assert not set(PARTS) & set(MORE_PARTS)
    for part, *_ in (*result.AT_MOST, *result.AT_LEAST):
        assert [*PARTS].index(part) < [*PARTS].index("tiny")


def test_what_a_part_leaves_over_is_for_those_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def fake(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        given.append(float(command[command.index("--seconds") + 1]))
        return subprocess.CompletedProcess(command, 0)

    now_s = 1000.0
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(schedule.subprocess, "run", fake)
    parts = {name: schedule.Planned("tiny", 100) for name in "abc"}
    for end_s in (1412.0, 1200.0, 1060.0):
        run_all([*"abc"], parts, end_s=end_s, options=["cpu"], reports=tmp_path, keep=id)
    assert given == [200.0, 300.0, 400.0, 100.0, 100.0, 188.0, 48.0, 48.0, 48.0]


def run_parts(
    names: list[str], folder: Path, options: list[str], keep: Callable[[Results], object] = id
) -> Results:
    return run_all(
        names,
        TINY_PARTS,
        end_s=time.monotonic() + 1000,
        options=options,
        reports=folder,
        keep=keep,
    )


def test_what_a_part_found_is_kept_before_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[str]] = []

    def fake(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert len(kept) == ["machine", "tiny"].index(command[4])
        assert Path(command[command.index("--report") + 1]).parent == tmp_path
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(schedule.subprocess, "run", fake)
    run_parts(["machine", "tiny"], tmp_path, [], lambda results: kept.append([*results]))
    assert kept == [["machine"], ["machine", "tiny"]]


def test_a_part_that_fails_on_a_card_is_run_once_more_with_every_launch_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[bool, str | None]] = []

    def fake(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        runs.append(("--quick" in command, options["env"].get("CUDA_LAUNCH_BLOCKING")))
        report = Path(command[command.index("--report") + 1])
        report.write_text(json.dumps({"error": f"illegal access {len(runs)}"}), encoding="utf-8")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(schedule.subprocess, "run", fake)
    results = run_parts(["tiny"], tmp_path, ["--device", "cuda:0"])
    assert runs == [(False, None), (True, "1")]
    errors = results["tiny"]["error"], results["tiny"]["again"]["error"]
    assert errors == ("illegal access 1", "illegal access 2")


def test_a_table_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {"state": "done", "figures": {}, "checks": {}}
    path = result.write(tmp_path, "card", {"machine": done}, ABOUT)
    before = path.read_bytes()

    def fail(path: Path, target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        result.write(tmp_path, "card", {"tiny": done}, ABOUT)
    assert path.read_bytes() == before


def test_the_commit_is_what_was_said_or_git_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "find_commit", lambda: "unknown")
    monkeypatch.setattr(program, "run_all", lambda *names, **options: LEFT_OUT)
    for given, expected in ((["--commit", "abc"], "abc"), ([], "unknown")):
        arguments = ["--device", "cpu", "--parts", "tiny", "--out", str(tmp_path), *given]
        assert program.main(arguments) == 1
        kept = json.loads((tmp_path / "gpu-cpu.json").read_text(encoding="utf-8"))
        assert kept["parts"]["tiny"]["measured"]["commit"] == expected


def test_without_time_a_part_is_left_out(tmp_path: Path) -> None:
    results = run_all(
        ["tiny"],
        TINY_PARTS,
        end_s=time.monotonic(),
        options=[],
        reports=tmp_path,
        keep=lambda results: None,
    )
    assert results["tiny"]["state"] == "left out"
    assert not any(result.judge(results).values())


def test_a_part_that_is_not_there_is_refused() -> None:
    assert program.main(["--device", "cpu", "--parts", "speech-9b"]) == 2


def launched_kernels() -> set[str]:
    """Names in our own source of what is called with a grid, `name[grid](...)`."""
    files = (ROOT / "qwen3_audio" / "kernels" / "fused").glob("triton_*.py")
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    calls = [node.func for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    grids = [func.value for func in calls if isinstance(func, ast.Subscript)]
    return {name.id for name in grids if isinstance(name, ast.Name)}


def test_each_of_our_kernels_belongs_to_a_part() -> None:
    assert {"_product", "_attend"} < launched_kernels()
    assert set(kernels.OWN_KERNELS) == launched_kernels()
    assert {*kernels.OWN_KERNELS.values()} < {*kernels.GROUPS}
    for name, group in kernels.OWN_KERNELS.items():
        assert kernels.group_of(name) == group


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("nvjet_hsh_64x8_64x16_4x1_v_bz_TNT", "products"),
        ("void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, float>", "products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, __nv_bfloat16>", "products"),
        ("void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention)", "attention"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda>", "copies"),
        ("sm80_xmma_fprop_implicit_gemm_bf16", "convolutions"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__nv_bfloat16>", "convolutions"),
        ("void at::native::sbtopk::gatherTopK<float, unsigned int, 2, false>", "sampler"),
        ("void at::native::reduce_kernel<512, 1, ReduceOp<float, ArgMaxOps<float>>>", "sampler"),
        ("void at::native::vectorized_layer_norm_kernel<c10::BFloat16, float, true>", "norms"),
        ("void vector_fft<400u, EPT<8u>, 64u>", "fourier"),
        ("void at::native::vectorized_gather_kernel<16, long>", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add>", "elementwise"),
        ("void at::native::reduce_kernel<512, 1, ReduceOp<float, MeanOps<float>>>", "elementwise"),
        ("something_else", "other"),
    ],
)
def test_kernels_of_libraries_are_told_apart_by_their_names(name: str, group: str) -> None:
    assert kernels.group_of(name) == group


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path: Path) -> None:
    command = [str(ROOT / "scripts" / "gpu-check"), "--device", "cpu", "--quick"]
    env = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run([*command, "--out", str(tmp_path)], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    kept = json.loads((tmp_path / "gpu-cpu.json").read_text(encoding="utf-8"))
    assert {name: one["state"] for name, one in kept["parts"].items()} == dict.fromkeys(
        TINY_PARTS, "done"
    )
    assert kept["parts"]["speech-tiny"]["figures"]["kernels at 1"]["per_step"] > 100
    assert len(kept["verdicts"]) > 10
    assert all(kept["verdicts"].values())
