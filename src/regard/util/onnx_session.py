"""Sessions of onnxruntime on the CPU."""

from __future__ import annotations

import platform
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from regard.errors import CheckpointError

_OPENING = Lock()
_INTEGER_PRODUCT = b"MatMulInteger"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class Graph:
    """An exported graph, which may still be loading."""

    def __init__(self, opening: Future[Any]) -> None:
        """Take the future onnxruntime session."""
        self._opening = opening

    @classmethod
    def of(cls, source: Path | bytes, threads: int = 0) -> Graph:
        """Load a graph now; see `open_session`."""
        opened: Future[Any] = Future()
        opened.set_result(open_session(source, threads))
        return cls(opened)

    @cached_property
    def _session(self) -> Any:
        return self._opening.result()

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Names of the inputs."""
        return frozenset(x.name for x in self._session.get_inputs())

    @cached_property
    def _outputs(self) -> list[str]:
        return [x.name for x in self._session.get_outputs()]

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by their names; inputs that the graph does not have are ignored.

        Raises:
            CheckpointError: the graph cannot be loaded, or does not run.
        """
        feed = {k: np.ascontiguousarray(v) for k, v in inputs.items() if k in self.inputs}
        try:
            return dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        except Exception as error:  # onnxruntime's own errors share no public base
            raise CheckpointError(
                f"a graph of the model does not run: {_reason(error)}. It is damaged, or of "
                "another model. Export the model again."
            ) from error


def open_session(
    graph: Path | bytes, threads: int = 0, *, spin: bool = False, weights: Path | None = None
) -> Any:
    """Return an onnxruntime session of a graph on the CPU.

    Only one is opened at a time: onnxruntime promises that threads may run sessions side by side,
    but opening two at once has crashed the process.

    Args:
        graph: its file, or its bytes.
        threads: how many a call may use; 0: onnxruntime chooses.
        spin: whether waiting threads keep their core; they react faster, but take the core from
            threads that read the next pictures.
        weights: the file that a graph's external weights lie in, where they have their own.

    Raises:
        CheckpointError: it cannot be loaded.
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    # Nothing is sent anywhere, and nothing but errors is written to standard error.
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    name = "the graph" if isinstance(graph, bytes) else str(graph)
    try:
        if weights is not None:
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights.parent))
            if isinstance(graph, Path):
                graph = graph.read_bytes()  # of a file, only its own folder would be searched
            if _INTEGER_PRODUCT in graph and _sums_may_overflow():
                options.add_session_config_entry("session.x64quantprecision", "1")
        source = graph if isinstance(graph, bytes) else str(graph)
        with _OPENING:
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no public base
        raise CheckpointError(
            f"{name} cannot be loaded by onnxruntime: {_reason(error)}"
        ) from error


def _sums_may_overflow() -> bool:
    """Return whether products of 8 bits may be added in 16 bits, as on x86 without VNNI.

    onnxruntime then computes exactly if it is told to, but more slowly.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return True  # another system, on which the processor is not known


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
