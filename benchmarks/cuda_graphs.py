"""Functions of tensors as CUDA graphs, so that Python does not launch their kernels one by one.

A training step or a beam search on a GPU is some hundred kernels of microseconds each; a graph
launches them all at once. It is bound to shapes and addresses: one graph is kept for each set of
shapes, with its own input and output tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
Function = Callable[..., Outputs]
_Key = tuple[tuple[torch.Size, torch.dtype], ...]


class Recorder(Protocol):
    """Interface for recording work once and replaying it."""

    def run(self, work: Callable[[], Outputs]) -> Outputs:
        """Run the work without recording it."""
        ...

    def record(self, work: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """Record the work without running it; return a function that runs it, and its outputs."""
        ...


@dataclass(frozen=True)
class _Recorded:
    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    outputs: Outputs


class Captured:
    """A function that is recorded once for each set of input shapes.

    Every call does the function's work exactly once, so it may be a training step: with new shapes
    the first calls run without a graph, to compile kernels and create the optimizer's state, and
    the next call records and replays.

    The function reads its arguments and tensors that stay where they are (weights, annotations
    that are resident), never waits for the GPU (no `item`), and draws random numbers from
    torch's own generator.
    """

    def __init__(self, function: Function, recorder: Recorder | None = None, plain: int = 3):
        """Wrap a function of tensors that returns a tuple of tensors.

        Args:
            function: the function to run.
            recorder: `CudaGraphs`, or None to call the function directly.
            plain: number of calls for each set of shapes before it is recorded.
        """
        self._function, self._recorder, self._plain = function, recorder, plain
        self._seen: dict[_Key, int] = {}
        self._recorded: dict[_Key, _Recorded] = {}

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Return the function's outputs; the next call may overwrite them."""
        if self._recorder is None:
            return self._function(*inputs)
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self._recorded:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= self._plain:
                return self._recorder.run(lambda: self._function(*inputs))
            own = tuple(tensor.clone() for tensor in inputs)
            self._recorded[key] = _Recorded(
                own, *self._recorder.record(lambda: self._function(*own))
            )
        recorded = self._recorded[key]
        for place, given in zip(recorded.inputs, inputs, strict=True):
            place.copy_(given)
        recorded.replay()
        return recorded.outputs


class CudaGraphs:
    """Records into CUDA graphs that share one pool of memory and one stream."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool: Any = None

    def run(self, work: Callable[[], Outputs]) -> Outputs:
        """See `Recorder.run`: on the stream of the graphs, where autograd's nodes then stay."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = work()
        current.wait_stream(self._stream)
        return outputs

    def record(self, work: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """See `Recorder.record`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            outputs = work()
        self._pool = graph.pool()
        return graph.replay, outputs


def recorder_for(device: torch.device) -> Recorder | None:
    """Return the recorder of a device; None if only plain calls are possible."""
    return CudaGraphs() if device.type == "cuda" else None
