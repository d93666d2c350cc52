"""The plan of the house, as a test: who may import whom, and what must never be imported."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_audio import errors
from qwen3_audio.web.errors import STATUS

ROOT = Path(__file__).parent.parent / "qwen3_audio"

# Everyone may stand on the floor: the standard library and numpy, nothing that takes long.
FLOOR = {
    *("errors", "types", "languages", "scope", "settings", "sentences", "checkpoints"),
    "machine",
}
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "types": {"scope"},
    "languages": {"errors"},
    "scope": {"errors"},
    "settings": {"errors", "types"},
    "sentences": {"errors", "languages"},
    "checkpoints": {"errors", "scope", "types"},
    "machine": set(),
    # Rooms that know one thing
    "random_weights": set(),
    "progress": set(),
    "audio": FLOOR,
    "models": FLOOR,
    "store": FLOOR,
    "fake": FLOOR,
    "pricing": FLOOR,
    "orders": FLOOR,
    "outcomes": FLOOR,
    "accounts": FLOOR | {"store"},
    "kernels": FLOOR | {"models"},
    "engine": FLOOR | {"kernels", "models"},
    "books": FLOOR | {"outcomes", "store"},
    "voice_prompts": FLOOR,
    "voice_samples": FLOOR,
    "stored_voices": FLOOR | {"audio", "orders", "store", "voice_prompts", "voice_samples"},
    "speaking": FLOOR | {"orders", "outcomes"},
    "encoding": FLOOR | {"audio", "speaking"},
    "service": FLOOR
    | {"audio", "books", "orders", "outcomes", "pricing", "speaking", "store", "stored_voices"},
    "references": FLOOR | {"audio", "orders", "service", "store", "voice_samples"},
    "voice_library": FLOOR
    | {"audio", "orders", "pricing", "references", "service", "speaking", "store"}
    | {"voice_prompts", "voice_samples"},
    "synthesis": FLOOR
    | {"audio", "books", "encoding", "entries", "orders", "outcomes", "pricing", "service"}
    | {"speaking", "store", "stored_voices"},
    "batch_synthesis": FLOOR
    | {"entries", "orders", "outcomes", "pricing", "service", "store", "stored_voices"}
    | {"synthesis"},
    "entries": FLOOR | {"books", "orders", "outcomes", "store"},
    "web": FLOOR
    | {"accounts", "audio", "books", "encoding", "entries", "orders", "outcomes", "service"}
    | {"store"}
    | {"batch_synthesis", "speaking", "stored_voices", "synthesis", "voice_library"},
    # Composition: which checkpoints, from where, put together how
    "hub": FLOOR | {"progress"},
    "selection": FLOOR | {"hub", "progress"},
    "demo": FLOOR | {"progress"},
    "doctor": FLOOR | {"engine", "hub", "selection"},
    "assembly": FLOOR
    | {"demo", "engine", "kernels", "progress", "selection", "service", "store", "web"},
    "bench": FLOOR | {"assembly", "audio", "progress", "random_weights"},
    "asgi": FLOOR | {"assembly"},
    "commands": FLOOR
    | {
        "accounts",
        "assembly",
        "audio",
        "bench",
        "demo",
        "doctor",
        "fake",
        "hub",
        "orders",
        "random_weights",
        "selection",
        "service",
        "speaking",
    }
    | {"store", "web"},
    "cli": {"errors", "commands"},
    "__main__": {"cli"},
}
# Packages from outside; whoever is not named uses the standard library alone.
OUTSIDE = {
    "types": {"numpy"},
    "fake": {"numpy"},
    "audio": {"av", "numpy", "soxr"},
    "models": {"numpy", "torch"},
    "kernels": {"numba", "numpy", "safetensors", "torch", "triton"},
    "engine": {"numpy", "safetensors", "tokenizers", "torch"},
    "random_weights": {"numpy", "safetensors", "torch"},
    "store": {"alembic", "sqlalchemy"},
    "accounts": {"sqlalchemy"},
    "books": {"sqlalchemy"},
    "entries": {"sqlalchemy"},
    "service": {"numpy", "sqlalchemy"},
    "speaking": {"numpy"},
    "voice_prompts": {"numpy", "safetensors"},
    "voice_samples": {"numpy"},
    "stored_voices": {"sqlalchemy"},
    "references": {"numpy"},
    "voice_library": {"numpy"},
    "synthesis": {"numpy", "sqlalchemy"},
    "batch_synthesis": {"sqlalchemy"},
    "web": {"fastapi", "prometheus_client", "pydantic", "starlette"},
    "hub": {"huggingface_hub"},
    "progress": {"tqdm"},
    "bench": {"jiwer", "matplotlib", "numpy", "whisper_normalizer"},
    "assembly": {"fastapi", "sqlalchemy"},
    "commands": {"fastapi", "sqlalchemy", "uvicorn"},
}
# What a user owns: found with the owner or not at all.
OWNED = ("voices", "generations", "batches", "consents")

FILES = sorted(ROOT.rglob("*.py"))
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imports(path: Path) -> Iterator[str]:
    """Modules by name, those inside functions and under TYPE_CHECKING too."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "qwen3_audio" else [node.module or ""]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@by_file
def test_imports_go_down_only(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} has no place in the plan yet: give it one in MAY_IMPORT"
    for name in imports(path):
        top, *rest = name.split(".")
        if top != "qwen3_audio":
            allowed = sys.stdlib_module_names | OUTSIDE.get(part, set())
            assert top in allowed, f"{part} must not import {top}"
        elif rest and rest[0] not in (part, "__version__"):
            assert rest[0] in MAY_IMPORT[part], f"{part} must not import {rest[0]}"


def test_the_plan_has_no_circles_and_no_empty_rooms() -> None:
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()
    parts = {part_of(path) for path in FILES}
    assert set(MAY_IMPORT) == parts
    assert set(OUTSIDE) <= parts


@by_file
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    for function in functions(path):
        num_lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert num_lines <= 60, function.name


@by_file
def test_nothing_is_ambient(path: Path) -> None:
    for node in nodes(path):
        assert not isinstance(node, ast.Global), f"line {node.lineno}: state is handed over"
        if isinstance(node, ast.Attribute):
            if node.attr in ("environ", "getenv") and path.name != "settings.py":
                pytest.fail(f"line {node.lineno}: settings.py alone reads the environment")
            is_sleep = node.attr == "sleep" and getattr(node.value, "id", "") == "time"
            assert not is_sleep, f"line {node.lineno}: wait for a condition, not for time"


def test_hardly_anything_swallows_every_error() -> None:
    """A handler that raises again only tidies up; those that do not are three at most."""
    broad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
        and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)
    ]
    assert len(broad) <= 3, broad


@pytest.mark.parametrize("name", OWNED)
def test_functions_on_what_users_own_take_the_owner(name: str) -> None:
    for function in functions(ROOT / "store" / f"{name}.py"):
        arguments = [argument.arg for argument in function.args.args]
        if not function.name.startswith("_") and arguments[:1] != ["self"]:
            assert arguments[:2] == ["conn", "user_id"], function.name


def test_every_error_has_a_status() -> None:
    assert set(STATUS) == set(errors.SpeechError.__subclasses__())


def run_with_blocked(blocked: str, code: str) -> None:
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked.split()!r}));"
    subprocess.run([sys.executable, "-c", block + code], check=True)


def test_the_web_side_runs_without_torch() -> None:
    run_with_blocked(
        "torch safetensors tokenizers huggingface_hub",
        "import qwen3_audio.web.app, qwen3_audio.service, qwen3_audio.fake",
    )


def test_the_engine_runs_where_only_torch_and_its_tokenizer_are() -> None:
    run_with_blocked(
        "fastapi starlette pydantic uvicorn sqlalchemy alembic av soxr huggingface_hub tqdm"
        " prometheus_client transformers",
        "import qwen3_audio.engine.local, qwen3_audio.random_weights.tts,"
        " qwen3_audio.random_weights.asr",
    )


def test_a_bench_of_a_server_needs_neither_torch_nor_pictures_and_word_rates() -> None:
    run_with_blocked(
        "torch safetensors tokenizers matplotlib jiwer whisper_normalizer",
        "import qwen3_audio.commands.bench",
    )


def test_help_is_there_before_anything_heavy_is_imported() -> None:
    run_with_blocked(
        "torch numpy fastapi uvicorn av huggingface_hub tokenizers pydantic",
        "from qwen3_audio.cli import build_parser; build_parser().format_help()",
    )
