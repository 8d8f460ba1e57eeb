"""The C++ loops in `cpp/`: compiled for this machine on first use, called through ctypes.

A compiler (`$CXX`, c++, g++ or clang++) builds the library in a few seconds and the user's cache
folder keeps it. Where there is none, or with the environment variable `REGARD_KERNELS=plain`,
`library` returns None and callers do the same in plain torch, several times slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from regard.types import Array

_LOG = logging.getLogger(__name__)
_PARTS = ("arithmetic", "attention", "product", "recurrence", "words", "vocabulary")
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",  # the same threads as torch's where its OpenMP is the compiler's, as on Linux
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
)
_REALS = {"float32": ("float", ctypes.c_float), "float64": ("double", ctypes.c_double)}
_COMPILE_SECONDS = 120

# Arguments of each function: n an integer, x a REAL, p the address of a contiguous tensor.
_SIGNATURES = {
    "exponentials": "npp",
    "attend": "nnnnppppnpxppp",
    "attend_backward": "nnnnppppnxppppppppp",
    "collect": "nnnnpppppppppp",
    "pack": "nnnnpp",
    "product": "nnnnnppnnp",
    "lstm": "nnpppp",
    "lstm_backward": "nnnpppppp",
    "cross_entropy": "nnnpppxp",
    "cross_entropy_backward": "nnnppxp",
    "rank": "nnnpppp",
    "strongest": "nnnnpppp",
    "gate": "nnnnpppp",
    "pairs_pay": "p",
    "shorten_words": "nnppppp",
    "strong_words": "nnnnppppppxppp",
    "threads": "n",
}
_STRIDED = {
    *("pack", "product", "lstm_backward", "cross_entropy", "cross_entropy_backward"),
    *("rank", "strongest", "gate"),
}
"""Functions that are told the steps between rows."""


class Library:
    """The compiled functions for arrays of one type, numpy's or torch's on the CPU.

    Attributes:
        dtype: of all floating-point numbers that are passed: "float32" or "float64".
    """

    def __init__(self, path: Path, dtype: str) -> None:
        """Load the library.

        Raises:
            OSError: it cannot be loaded.
        """
        self.dtype = dtype
        loaded = ctypes.CDLL(str(path))
        kinds = {"n": ctypes.c_int64, "x": _REALS[dtype][1], "p": ctypes.c_void_p}
        self._functions = {}
        for name, signature in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.argtypes = [kinds[letter] for letter in signature]
            function.restype = None
            self._functions[name] = function

    def call(self, name: str, *arguments: int | float | Array | None) -> None:
        """Call a function of theirs; what it writes is among the arguments.

        Args:
            name: of the function.
            *arguments: sizes, numbers, contiguous arrays (None: a null pointer).

        Raises:
            TypeError: an array is of another type, or is not contiguous where that is needed; its
                memory would be misread.
        """
        self._functions[name](*(self._passed(name, given) for given in arguments))

    def _passed(self, name: str, given: int | float | Array | None) -> int | float | None:
        """Return what goes to C++: a number as it is, of an array its address."""
        if given is None or isinstance(given, int | float):
            return given
        kind = dtype_name(given.dtype)
        if "float" in kind and kind != self.dtype:
            raise TypeError(f"{name} takes {self.dtype}, and an array is {kind}")
        if isinstance(given, np.ndarray):
            contiguous, address = given.flags.c_contiguous, given.ctypes.data
        else:
            contiguous, address = given.is_contiguous(), given.data_ptr()
        if not contiguous and name not in _STRIDED:
            raise TypeError(f"{name} takes contiguous arrays; one is not")
        return int(address)


@cache
def dtype_name(dtype: object) -> str:
    """Return the name of a type of numpy or torch, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def library(dtype: object) -> Library | None:
    """Return the compiled loops for arrays of a type of numpy or torch, or None (`obstacle`)."""
    found = _library_or_obstacle(dtype_name(dtype))
    return found if isinstance(found, Library) else None


def obstacle(dtype: object) -> str:
    """Return why `library` has none for a type, or ""."""
    found = _library_or_obstacle(dtype_name(dtype))
    return "" if isinstance(found, Library) else found


def _library_or_obstacle(dtype: str) -> Library | str:
    if os.environ.get("REGARD_KERNELS") == "plain":
        return "REGARD_KERNELS is plain"
    if dtype not in _REALS:
        return f"there are no compiled loops for {dtype}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return "torch is tracing, which follows its own operations only"
    return _loaded(dtype)


@cache
def _loaded(dtype: str) -> Library | str:
    """Compile and load the loops; a machine that cannot is told once what it costs."""
    try:
        return Library(_built(dtype), dtype)
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(error).strip() or type(error).__name__
        _LOG.warning(
            "no compiled loops (%s): the CPU computes without them and takes longer, in training "
            "several times as long. A C++ compiler (g++ or clang++, or the one that CXX names) "
            "makes them.",
            reason,
        )
        return reason


def is_built(dtype: str) -> bool:
    """Whether `library` has nothing to compile for a type, which takes seconds."""
    try:
        return _place(dtype).exists()
    except (OSError, subprocess.SubprocessError):
        return False


def _place(dtype: str) -> Path:
    key = "\n".join((_source(), *_flags(dtype), *_machine(_compiler())))
    return _folder() / f"native-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"


def _source() -> str:
    folder = files("regard.native") / "cpp"
    return "\n".join(folder.joinpath(f"{part}.cpp").read_text("utf-8") for part in _PARTS)


def _flags(dtype: str) -> tuple[str, ...]:
    return (*_FLAGS, f"-DREAL={_REALS[dtype][0]}")


def _built(dtype: str) -> Path:
    """Return the library's path, compiling it where this machine has not done so yet."""
    path = _place(dtype)
    digest = path.with_suffix(".sha256")
    # Half a library, as a disk that failed may hold, would end the process that loads it.
    if not (path.exists() and digest.exists() and digest.read_text("utf-8") == _digest(path)):
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            code, made = Path(scratch) / "loops.cpp", Path(scratch) / path.name
            code.write_text(_source(), "utf-8")
            _run([_compiler(), *_flags(dtype), str(code), "-o", str(made)])
            noted = Path(scratch) / digest.name
            noted.write_text(_digest(made), "utf-8")
            os.replace(made, path)  # whole or not at all, also where two processes compile
            os.replace(noted, digest)
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise FileNotFoundError("there is no C++ compiler")


def _machine(compiler: str) -> tuple[str, str]:
    """Return the compiler's version and the processor, which -march=native depends on."""
    try:
        described = Path("/proc/cpuinfo").read_text("utf-8")
        processor = next(line for line in described.splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        processor = platform.processor()
    return _run([compiler, "--version"]), f"{platform.machine()} {processor}"


def _run(command: list[str]) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"status {result.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise OSError(f"{Path(command[0]).name}: {first}")
    return result.stdout


def _folder() -> Path:
    """Return a folder of the user's own; a temporary one where there is no home to write to."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "regard"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="regard-"))
