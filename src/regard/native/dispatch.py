"""Dispatch table: the implementations of each computation, and when each is used.

Plain torch (or a model's ONNX graph) computes everything; the other implementations compute the
same numbers faster, where their conditions hold. `TABLE` lists them, the fastest first. Callers ask
it: `SOFT_ATTENTION.choose(case)` names the implementation for a case, and
`VOCABULARY_LOSS.library(case)` returns the compiled loops if they are chosen.
`regard info --runtime` prints the table as it applies to this machine.

This module imports neither torch nor Triton: captioning with ONNX graphs uses it, too.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from regard.native import cpp_library
from regard.native.cpp_library import Library

CPP, TRITON, ONNX, TORCH = "C++", "Triton", "onnxruntime", "torch"
BLOCKWISE, INT16 = "torch in blocks", "C++ in 16 bits"

BLOCKWISE_FROM = 513
"""Cells from which additive scores are computed block by block."""
_WORTH_A_COMPILER = 2000  # items whose steps save the seconds that compiling takes
_MANY_WORDS = 2048  # from which 16-bit integers pay
KNOWN_SCORES = ("additive", "dot", "scaled_dot")
"""Attention scores that the compiled loops compute."""
_TIMED = 10  # calls of each implementation
_TRITON_DTYPES = {"float32", "bfloat16", "float16"}  # the kernels sum in float32


class Case(NamedTuple):
    """The inputs of a choice; each computation reads some of them.

    Attributes:
        device: device of the tensors: "cpu", or torch's device.
        dtypes: dtypes of the tensors, such as "float32".
        autocast: whether torch multiplies in fewer bits on a CPU.
        known_scores: whether the attention's scores are additive or dot products.
        cells: grid cells of an item.
        words: number of words in the vocabulary.
        items: pictures, clips or scans to caption.
        exportable: whether a graph can stand for the encoder.
        pointer: whether the decoder names what it looks at (`regard.model.pointer`).
    """

    device: Any = "cpu"
    dtypes: tuple[str, ...] = ("float32",)
    autocast: bool = False
    known_scores: bool = True
    cells: int = 0
    words: int = 0
    items: int = 0
    exportable: bool = True
    pointer: bool = False

    @property
    def device_type(self) -> str:
        """ "cpu", "cuda" ..."""
        return getattr(self.device, "type", self.device)

    @property
    def cpp_dtype(self) -> str:
        """The type of the compiled loops: under autocast they compute the rest in float32."""
        return "float32" if self.autocast else self.dtypes[0]


def case_of(*tensors: Any, **facts: Any) -> Case:
    """Return the case of tensors; if they lie on several devices, no fast path applies."""
    device = tensors[0].device
    if any(t.device != device for t in tensors):
        device = "several devices"
    return Case(device, tuple(cpp_library.dtype_name(t.dtype) for t in tensors), **facts)


Condition = Callable[[Case], str]
"""Returns why an implementation cannot be used, or "" if it can."""


class Implementation:
    """One way to compute something."""

    def __init__(
        self, name: str, reason: str, *conditions: Condition, packages: tuple[str, ...] = ()
    ) -> None:
        """Store the arguments.

        Args:
            name: such as `CPP`.
            reason: why it is taken if its conditions hold.
            *conditions: all must hold.
            packages: packages that it needs.
        """
        self.name, self.reason, self.packages = name, reason, packages
        self._conditions = conditions

    def obstacle(self, case: Case) -> str:
        """Return the first condition that does not hold, or ""."""
        return next(filter(None, (condition(case) for condition in self._conditions)), "")


class Computation:
    """A row of the table."""

    def __init__(self, name: str, use: str, *implementations: Implementation) -> None:
        """Store the arguments.

        Args:
            name: what is computed.
            use: where, in training or captioning.
            *implementations: the fastest first; the last has no conditions.
        """
        self.name, self.use, self.implementations = name, use, implementations

    def choose(self, case: Case) -> str:
        """Return the name of the implementation to use."""
        return next(i.name for i in self.implementations if not i.obstacle(case))

    def library(self, case: Case) -> Library | None:
        """Return the compiled loops if they are chosen."""
        return cpp_library.library(case.cpp_dtype) if self.choose(case) == CPP else None


def _on_cpu(case: Case) -> str:
    return "" if case.device_type == "cpu" else f"the tensors are on {case.device}"


def _cpp(case: Case) -> str:
    return cpp_library.obstacle(case.cpp_dtype)


def _no_autocast(case: Case) -> str:
    return "torch multiplies in fewer bits (autocast)" if case.autocast else ""


def _one_dtype(case: Case) -> str:
    return "" if len(set(case.dtypes)) == 1 else "the tensors are of several types"


def _known_scores(case: Case) -> str:
    return "" if case.known_scores else "the scores are neither additive nor dot products"


def _no_pointer(case: Case) -> str:
    return "the decoder points: all words' probabilities are mixed" if case.pointer else ""


def _many_cells(case: Case) -> str:
    return "" if case.cells >= BLOCKWISE_FROM else f"a grid has fewer than {BLOCKWISE_FROM} cells"


def _worth_compiling(case: Case) -> str:
    if case.items >= _WORTH_A_COMPILER or cpp_library.is_built("float32"):
        return ""
    return f"fewer than {_WORTH_A_COMPILER:,} items, and the loops are not compiled yet"


def _many_words(case: Case) -> str:
    return "" if case.words >= _MANY_WORDS else f"the vocabulary has fewer than {_MANY_WORDS} words"


def _int16_pays(case: Case) -> str:
    return "" if int16_pays(case.cpp_dtype) else "the processor is not faster in 16 bits"


def int16_pays(dtype: str) -> bool:
    """Return whether this processor multiplies pairs of 16-bit integers faster than floats."""
    library = cpp_library.library(dtype)
    answer = np.zeros(1, np.int64)
    if library is not None:
        library.call("int16_pays", answer=answer)
    return bool(answer[0])


def _exportable(case: Case) -> str:
    return "" if case.exportable else "no graph can stand for this encoder"


def _triton(case: Case) -> str:
    return triton_obstacle(case)  # looked up at each call: benchmarks and tests replace it


def triton_obstacle(case: Case) -> str:
    """Return why Triton's kernels cannot compute with a case's tensors, or ""."""
    if case.device_type != "cuda":
        return f"the tensors are on {case.device}"
    if not _TRITON_DTYPES.issuperset(case.dtypes):
        return f"a tensor is not of {', '.join(sorted(_TRITON_DTYPES))}"
    if not triton_works(case.device):
        return "the kernels fail on this device"
    return "" if triton_pays(case.device) else "torch was faster when both were timed here"


@functools.cache
def triton_works(device: Any) -> bool:
    """Return whether the kernels run on a torch device; warn if they fail.

    Triton, a C compiler or a GPU that is new enough may be missing.
    """
    try:
        import torch

        from regard.native import triton_kernels

        one = torch.ones(1, 1, 1, device=device)
        scores = triton_kernels.additive_scores(one, one, one[0, 0])
        triton_kernels.attend(scores, one, one[0] > 0, 1.0)
    except Exception as error:  # whatever failed, the plain path does not need it
        warnings.warn(
            f"the attention of {device} runs without Triton's kernels, slower and in more memory: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    return True


@functools.cache
def triton_pays(device: Any) -> bool:
    """Return whether the kernels are faster than torch on a device; times both once.

    It times attention over pictures of 196 cells, forward and backward, as training does it.
    """
    import torch

    from regard.native import triton_kernels

    keys, query = torch.zeros(16, 196, 512, device=device), torch.zeros(16, 5, 512, device=device)
    v, mask = keys[0, 0], torch.ones(16, 196, dtype=torch.bool, device=device)
    query.requires_grad_()

    def fused() -> Any:
        scores = triton_kernels.additive_scores(keys, query, v)
        return triton_kernels.attend(scores, keys, mask, 1.0)[1]

    def plain() -> Any:
        alpha = torch.softmax(torch.tanh(keys[:, None] + query[:, :, None]) @ v, -1)
        return alpha @ keys

    return _seconds(fused) < _seconds(plain)


def _seconds(forward: Callable[[], Any]) -> float:
    """Return the median seconds of a call and its backward pass, after calls that warm up."""
    from torch.utils.benchmark import Timer  # its clock waits for the GPU

    return Timer("run().sum().backward()", globals={"run": forward}).timeit(_TIMED).median


_TORCH = Implementation(
    TORCH, "the plain computation, by which the others are tested", packages=("torch",)
)
_STEP = "weights packed once, and logits only as far as a search needs them"
_BOTH = "training, captioning with torch"

ENCODER = Computation(
    "encoder of torch models",
    "filling a store, captioning many items",
    Implementation(
        ONNX,
        "several times faster than torch once it has started",
        _on_cpu,
        _exportable,
        packages=("onnxruntime", "onnxscript"),
    ),
    _TORCH,
)
KEYS = Computation(
    "attention keys",
    _BOTH,
    Implementation(
        CPP, "faster than BLAS: the weight is packed once", _on_cpu, _no_autocast, _one_dtype, _cpp
    ),
    _TORCH,
)
ADDITIVE_SCORES = Computation(
    "additive scores",
    _BOTH,
    Implementation(TRITON, "no tanh is written to memory", _triton, packages=("triton",)),
    Implementation(BLOCKWISE, "the tanh of many cells is not kept", _many_cells),
    _TORCH,
)
SOFT_ATTENTION = Computation(
    "softmax and context of soft attention",
    _BOTH,
    Implementation(TRITON, "one kernel reads the values once", _triton, packages=("triton",)),
    _TORCH,
)
TEACHER_FORCING = Computation(
    "recurrence over given captions",
    "training",
    Implementation(CPP, "packed weights, and no tanh is kept", _on_cpu, _known_scores, _cpp),
    _TORCH,
)
VOCABULARY_LOSS = Computation(
    "vocabulary loss",
    "training",
    Implementation(CPP, "logits and their gradient share one buffer", _on_cpu, _cpp),
    _TORCH,
)
TORCH_STEP = Computation(
    "decoder step of torch models",
    "captioning, self-critical training",
    Implementation(CPP, _STEP, _no_pointer, _on_cpu, _no_autocast, _known_scores, _cpp),
    _TORCH,
)
ONNX_STEP = Computation(
    "decoder step of ONNX models",
    "captioning many items",
    Implementation(CPP, _STEP, _no_pointer, _known_scores, _worth_compiling, _cpp),
    Implementation(ONNX, "the model's graph needs no compiler", packages=("onnxruntime",)),
)
STRONGEST_WORDS = Computation(
    "strongest words of a compiled step",
    "captioning",
    Implementation(INT16, "half the time for a large vocabulary", _many_words, _cpp, _int16_pays),
    Implementation(CPP, "all logits in the type of the weights"),
)
TABLE = (
    *(ENCODER, ONNX_STEP, TORCH_STEP, STRONGEST_WORDS, KEYS),
    *(ADDITIVE_SCORES, SOFT_ATTENTION, TEACHER_FORCING, VOCABULARY_LOSS),
)


def this_machine() -> Case:
    """Return the case of float32, a large vocabulary and this machine's GPU, or else its CPU."""
    if find_spec("torch"):
        import torch

        if torch.cuda.is_available():
            return Case(torch.device("cuda"), words=_MANY_WORDS)
    return Case(words=_MANY_WORDS)


def report(case: Case) -> Iterator[dict[str, Any]]:
    """Yield for each row the implementation for a case, why, and why the others are not used."""
    for row in TABLE:
        taken: Implementation | None = None
        others: dict[str, str] = {}
        plain = row.implementations[-1]
        for implementation in row.implementations:
            missing = [p for p in plain.packages + implementation.packages if not find_spec(p)]
            obstacle = (
                f"{missing[0]} is not installed" if missing else implementation.obstacle(case)
            )
            if taken is not None:
                others[implementation.name] = f"{taken.name} is faster"
            elif obstacle:
                others[implementation.name] = obstacle
            else:
                taken = implementation
        yield {
            "computation": row.name,
            "use": row.use,
            "implementation": None if taken is None else taken.name,
            "reason": None if taken is None else taken.reason,
            "others": others,
        }
