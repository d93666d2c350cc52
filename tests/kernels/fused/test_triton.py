"""The Triton kernels without a card: run by Triton's interpreter, and compiled for cards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = {
    "_add_norm",
    "_silu_mul",
    "_place",
    "_attend",
    "_combine",
    "_begin",
    "_go_on",
    "_product",
    "_draw_keys",
    "_choose",
    "_choose_large",
}
FEW_BYTES = 64  # of a thread beside its registers

# Triton is not made for every platform, and torch comes without it there.
pytestmark = [pytest.mark.triton, pytest.mark.slow]


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Triton asks once whether it is to interpret."""
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )


def interpret(selection: str) -> None:
    file = str(HERE / "in_interpreter.py")
    command = ("-m", "pytest", file, "-p", "no:cacheprovider", "-m", selection)
    done = run(*command, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_the_kernels_equal_their_twins_in_the_interpreter() -> None:
    interpret("not slow")


def test_the_kernels_equal_their_twins_in_the_interpreter_in_more_cases() -> None:
    interpret("slow")


@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_every_kernel_compiles_for_cards_and_fits_their_registers(
    capability: str, tmp_path: Path
) -> None:
    done = run(str(HERE / "compile_kernels.py"), capability, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-5000:]
    overflow = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _ in overflow} == KERNELS
    assert [line for line in overflow if int(line[1]) > FEW_BYTES] == []
