"""Compiles stack.c with the system's C compiler into the cache folder, and opens it.

Whatever goes wrong is one sentence in NoKernels: torch then does the same work, slower.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

SOURCE = Path(__file__).with_name("stack.c")
HEADERS = sorted(SOURCE.parent.glob("*.h"))
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-Wno-psabi")
TARGETS = (("-march=native",), ())  # compilers that know no such processor make plain code
LIBRARIES = ("-lpthread", "-lm")
COMPILE_LIMIT_S = 120


class NoKernels(Exception):
    """Why there are no compiled kernels here; a sentence for `doctor`."""


class Matrix(Structure):
    """Mirrors `Matrix` of rows.h."""

    _fields_ = (
        ("data", c_void_p),
        ("scale", c_void_p),
        ("sum", c_void_p),
        ("bias", c_void_p),
        ("type", c_int32),
        ("num_out", c_int32),
        ("num_in", c_int32),
    )


class Layer(Structure):
    """Mirrors `Layer` of attention.h."""

    _fields_ = (
        ("qkv", Matrix),
        ("out", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("input_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("mlp_norm", c_void_p),
    )


class Stack(Structure):
    """Mirrors `Stack` of attention.h."""

    _fields_ = (
        ("num_layers", c_int32),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("inner", c_int32),
        ("epsilon", c_float),
        ("norm", c_void_p),
        ("layers", POINTER(Layer)),
    )


class Cache(Structure):
    """Mirrors `Cache` of attention.h."""

    _fields_ = (
        ("k", c_void_p),
        ("v", c_void_p),
        ("page_stride", c_int64),
        ("layer_stride", c_int64),
        ("page_positions", c_int32),
        ("type", c_int32),
        ("pages", c_void_p),
        ("pages_stride", c_int64),
        ("lengths", c_void_p),
        ("is_prompt", c_int32),
    )


def make_ahead(cache_dir: Path) -> None:
    """Compile the library if it is missing; what goes wrong is told when it is opened."""
    path = _path(cache_dir)
    if not path.exists():
        with contextlib.suppress(NoKernels, OSError):
            _compile(path)


def open_library(cache_dir: Path) -> ctypes.CDLL:
    """The compiled library, from the cache folder or made there now; raises NoKernels."""
    path = _path(cache_dir)
    try:
        library = _open_or_make(path)
    except OSError as error:
        raise NoKernels(f"the compiled kernels can't be kept or opened: {error}") from error
    pointer = c_void_p
    library.pool_open.restype = pointer
    library.pool_open.argtypes = (ctypes.c_int,)
    library.pool_close.argtypes = (pointer,)
    library.pool_lend.argtypes = (pointer, ctypes.c_int)
    library.matrix_multiply.argtypes = (pointer, POINTER(Matrix), pointer, pointer, ctypes.c_int)
    library.stack_step.argtypes = (
        pointer, POINTER(Stack), POINTER(Cache), pointer, pointer, pointer, pointer,
        pointer, pointer, pointer, pointer, ctypes.c_int,
    )  # fmt: skip
    library.choose_rows.argtypes = (
        pointer, pointer, ctypes.c_int, ctypes.c_int, pointer, pointer, pointer, pointer, pointer,
    )  # fmt: skip
    library.log_sum_rows.argtypes = (pointer, pointer, ctypes.c_int, ctypes.c_int, pointer)
    return library


def _path(cache_dir: Path) -> Path:
    return cache_dir / f"stack-{_fingerprint()}.so"


def _open_or_make(path: Path) -> ctypes.CDLL:
    if path.exists():
        with contextlib.suppress(OSError):  # torn by a full disk, say: made again
            return ctypes.CDLL(str(path))
    _compile(path)
    return ctypes.CDLL(str(path))


def _fingerprint() -> str:
    """Of the source, the flags and the processor: -march=native code fits no other one."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    flags = " ".join((*FLAGS, *(flag for target in TARGETS for flag in target)))
    sources = (path.read_text() for path in (SOURCE, *HEADERS))
    parts = (*sources, flags, platform.machine(), features)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(path: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise NoKernels("there is no C compiler (cc) to make the kernels with")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        _run_compiler(compiler, name)
        Path(name).replace(path)  # another process may have made it meanwhile: equal files
    finally:
        Path(name).unlink(missing_ok=True)


def _run_compiler(compiler: str, name: str) -> None:
    for target in TARGETS:
        words = [compiler, *FLAGS, *target, str(SOURCE), "-o", name, *LIBRARIES]
        try:
            subprocess.run(words, check=True, capture_output=True, timeout=COMPILE_LIMIT_S)
            return
        except subprocess.SubprocessError as error:
            if target == TARGETS[-1]:
                raise NoKernels(f"the C compiler could not make the kernels: {error}") from error
