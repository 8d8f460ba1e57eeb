"""The C++ loops in `cpp/`: compiled for this machine on first use, called through ctypes.

A compiler (`$CXX`, c++, g++ or clang++) builds the library in a few seconds, and the user's cache
folder keeps it. Without one, or with the environment variable `REGARD_KERNELS=plain`, `library`
returns None and callers use plain torch, several times slower. Functions are called with keyword
arguments, whose names are read from the C++ source itself.

`PackedProduct` multiplies few rows with a constant weight, which is packed once and used at every
step.
"""

import ctypes
import hashlib
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

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

# Types of the arrays that a pointer of C++ may be given; T is a library's own.
_ARRAYS = {"int64_t*": ("int64",), "int32_t*": ("int32",), "uint8_t*": ("bool", "uint8")}

ALIGNED = 16
"""A row that a product writes is best a multiple of this many numbers long."""
_LINE = 64  # bytes
_MARGIN = 64  # columns that a packed weight may be longer by; no processor's vectors are wider


class _Function(NamedTuple):
    """An exported function.

    Attributes:
        call: takes the parameters in order.
        parameters: their names, each with the types that an array may have; () for numbers.
        strided: whether it takes row strides, so that arrays need not be contiguous.
    """

    call: Any
    parameters: dict[str, tuple[str, ...]]
    strided: bool


class Library:
    """The compiled functions for arrays of one type, numpy's or torch's on the CPU.

    Attributes:
        dtype: dtype of all floating-point numbers that are passed: "float32" or "float64".
    """

    def __init__(self, path: Path, dtype: str) -> None:
        """Load the library.

        Raises:
            OSError: it cannot be loaded.
        """
        self.dtype = dtype
        loaded = ctypes.CDLL(str(path))
        numbers = {"int64_t": ctypes.c_int64, "T": _REALS[dtype][1]}
        arrays = _ARRAYS | {"T*": (dtype,)}
        self._functions: dict[str, _Function] = {}
        for name, parameters in _declared().items():
            function = getattr(loaded, name)
            function.argtypes = [numbers.get(kind, ctypes.c_void_p) for kind in parameters.values()]
            function.restype = None
            strided = any(
                kind == "int64_t" and re.search("stride|step", parameter)
                for parameter, kind in parameters.items()
            )
            of_arrays = {p: arrays.get(kind, ()) for p, kind in parameters.items()}
            self._functions[name] = _Function(function, of_arrays, strided)

    def call(self, name: str, **arguments: int | float | Array | None) -> None:
        """Call a function of C++; it writes to some of its arguments.

        Args:
            name: name of the function.
            **arguments: numbers and arrays by the names of its parameters; None is a null pointer.

        Raises:
            TypeError: an argument is missing or unknown, or an array is of another type, or is
                not contiguous though it must be; its memory would be misread.
        """
        function = self._functions[name]
        if arguments.keys() != function.parameters.keys():
            wrong = sorted(arguments.keys() ^ function.parameters.keys())
            raise TypeError(f"{name}: missing or unknown arguments: {', '.join(wrong)}")
        passed: list[Any] = []
        for parameter, dtypes in function.parameters.items():
            given = arguments[parameter]
            if dtypes and given is not None:
                given = _address(given, dtypes, function.strided, f"{name}: {parameter}")
            passed.append(given)
        function.call(*passed)

    def exponentials(self, x: Array, out: Array) -> bool:
        """Write exp(-2 x) to `out`, which may be x.

        Returns:
            Whether some numbers are too large for that; `out` then holds codes of them
            (cpp/arithmetic.cpp), and the loops that read it need `coded=True`.
        """
        coded = np.zeros(1, np.int64)
        self.call("exponentials", n=math.prod(x.shape), x=x, out=out, coded=coded)
        return bool(coded[0])


def _address(array: Array, dtypes: tuple[str, ...], strided: bool, what: str) -> int:
    """Return an array's address; raise if C++ would misread the array."""
    dtype = dtype_name(array.dtype)
    if dtype not in dtypes:
        raise TypeError(f"{what} is {dtype}; expected {' or '.join(dtypes)}")
    if isinstance(array, np.ndarray):
        contiguous, address = array.flags.c_contiguous, array.ctypes.data
    else:
        contiguous, address = array.is_contiguous(), array.data_ptr()
    if not contiguous and not strided:
        raise TypeError(f"{what} is not contiguous")
    return address


@cache
def _declared() -> dict[str, dict[str, str]]:
    """Return the exported functions with the types of their parameters, read from the source."""
    functions: dict[str, dict[str, str]] = {}
    for block in re.findall(r'extern "C" \{(.*?)\}  // extern "C"', _source(), re.S):
        for name, listed in re.findall(r"^void (\w+)\(([^)]*)\) \{", block, re.M):
            pairs = [part.replace("const ", "").split() for part in listed.split(",")]
            functions[name] = {parameter: kind for kind, parameter in pairs}
    return functions


@cache
def dtype_name(dtype: object) -> str:
    """Return the name of a type of numpy or torch, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def library(dtype: object) -> Library | None:
    """Return the compiled loops for arrays of a type of numpy or torch, or None (`obstacle`)."""
    found = _library_or_obstacle(dtype_name(dtype))
    return found if isinstance(found, Library) else None


def obstacle(dtype: object) -> str:
    """Return why `library` returns None for a type, or ""."""
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
    """Compile and load the loops; warn once if this machine cannot."""
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
    """Return whether the loops for a type are compiled already; compiling takes seconds."""
    try:
        return _place(dtype).exists()
    except (OSError, subprocess.SubprocessError):
        return False


def _place(dtype: str) -> Path:
    key = "\n".join((_source(), *_flags(dtype), *_machine(_compiler())))
    return _folder() / f"native-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"


@cache
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
    raise FileNotFoundError("no C++ compiler was found")


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
    """Return a folder of the user's own; a temporary one if the home is not writable."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "regard"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="regard-"))


# Products with a packed weight


class PackedProduct:
    """x -> x W for a weight W (inner, outer), arrays of numpy or of torch."""

    def __init__(self, weight: Array, library: Library) -> None:
        """Pack the weight.

        Args:
            weight: (inner, outer), with any strides; a copy is kept.
            library: the compiled loops for its type.
        """
        self.inner, self.outer = weight.shape
        self._library = library
        self._panels = aligned_empty(weight, self.inner * (self.outer + _MARGIN))
        inner_step, outer_step = element_strides(weight)
        library.call(
            "pack", inner=self.inner, outer=self.outer, inner_step=inner_step,
            outer_step=outer_step, weight=weight, panels=self._panels,
        )  # fmt: skip

    def __call__(self, x: Array) -> Array:
        """Return x W, (rows, outer), for x (rows, inner) with any strides.

        Rows of numpy's arrays are padded so that each begins with a cache line.
        """
        padding = -self.outer % ALIGNED if isinstance(x, np.ndarray) else 0
        out = aligned_empty(x, len(x), self.outer + padding)[:, : self.outer]
        self.into(out, x)
        return out

    def into(self, out: Array, x: Array) -> None:
        """Write x W to `out` (rows, outer), whose columns are contiguous."""
        self._multiply(out, x, add=False)

    def add_to(self, out: Array, x: Array) -> None:
        """Add x W to `out` (rows, outer), whose columns are contiguous."""
        self._multiply(out, x, add=True)

    def _multiply(self, out: Array, x: Array, *, add: bool) -> None:
        x_row, x_step = element_strides(x)
        self._library.call(
            "product", rows=len(x), inner=self.inner, outer=self.outer, x_row=x_row, x_step=x_step,
            x=x, panels=self._panels, out_step=element_strides(out)[0], add=int(add), out=out,
        )  # fmt: skip


def aligned_empty(like: Array, *shape: int) -> Array:
    """Return an uninitialised array of the same kind and type that begins with a cache line.

    torch's arrays do so, numpy's may not: a product takes up to an eighth longer if every vector
    that it writes lies in two lines.
    """
    if not isinstance(like, np.ndarray):
        return like.new_empty(shape)
    size = math.prod(shape) * like.itemsize
    buffer = np.empty(size + _LINE, np.uint8)
    first = -buffer.ctypes.data % _LINE
    return buffer[first : first + size].view(like.dtype).reshape(shape)


def element_strides(x: Array) -> tuple[int, ...]:
    """Return the strides of an array, in elements."""
    if isinstance(x, np.ndarray):
        return tuple(stride // x.itemsize for stride in x.strides)
    return tuple(x.stride())
