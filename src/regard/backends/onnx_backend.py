"""The light backend: exported graphs under onnxruntime, everything else in numpy. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.types import Annotations, DecoderState, Grid, ProjectedAnnotations, Step

_GIVE = {
    "encoder": {"vectors"},
    "motion": {"vectors"},
    "init": {"values", "keys", "hidden", "memory"},
    "step": {"logits", "next_hidden", "next_memory", "alpha"},
}
"""Outputs that every graph must have."""
_CONTEXTS = ("expected", "sample", "argmax")


class Graph:
    """An exported graph, which may still be loading."""

    def __init__(self, opening: Future[Any]) -> None:
        """Take what will give the onnxruntime session."""
        self._opening = opening

    @classmethod
    def of(cls, source: Path | bytes, threads: int = 0) -> Graph:
        """Load a graph now; see `open_graph`."""
        opened: Future[Any] = Future()
        opened.set_result(open_graph(source, threads))
        return cls(opened)

    @cached_property
    def _session(self) -> Any:
        return self._opening.result()

    @cached_property
    def takes(self) -> frozenset[str]:
        """Names of the inputs."""
        return frozenset(x.name for x in self._session.get_inputs())

    @cached_property
    def _gives(self) -> list[str]:
        return [x.name for x in self._session.get_outputs()]

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by their names; inputs that the graph has no use for are left out."""
        feed = {k: np.ascontiguousarray(v) for k, v in inputs.items() if k in self.takes}
        try:
            return dict(zip(self._gives, self._session.run(None, feed), strict=True))
        except Exception as error:  # onnxruntime's own errors share no public base
            raise CheckpointError(
                f"a graph of the model does not run: {_reason(error)}. It is damaged, or of "
                "another model. Export the model again."
            ) from error


class OnnxBackend:
    """Runs the graphs of a model; see `Backend` and `regard.graphs`."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        *,
        grid_shape: tuple[int, ...],
        per_frame: bool = False,
        files: Sequence[Path] = (),
    ) -> None:
        """Take the graphs.

        Args:
            graphs: by "encoder", "init", "step" and, of some models of clips, "motion".
            grid_shape: of an item; L is its product.
            per_frame: whether the encoder reads the frames of a clip one by one.
            files: that the graphs came from, where they did.
        """
        self._graphs = dict(graphs)
        self.grid_shape, self.per_frame = grid_shape, per_frame
        self._files = tuple(files)

    @classmethod
    def open(
        cls,
        folder: Path,
        names: Sequence[str],
        *,
        grid_shape: tuple[int, ...],
        per_frame: bool = False,
    ) -> OnnxBackend:
        """Load graphs from a checkpoint's folder, side by side and while others go on.

        What cannot be loaded is a `CheckpointError` when it is first used.

        Args:
            folder: with the graphs and `model.safetensors`.
            names: file names of the graphs.
            grid_shape: see the constructor.
            per_frame: see the constructor.
        """
        files = [folder / name for name in names]
        return cls._opened(files, grid_shape, per_frame, available_cores())

    @classmethod
    def _opened(
        cls, files: Sequence[Path], grid_shape: tuple[int, ...], per_frame: bool, threads: int
    ) -> OnnxBackend:
        pool = ThreadPoolExecutor(2)  # a graph's constants are folded on one core
        graphs = {file.stem: Graph(pool.submit(open_graph, file, threads)) for file in files}
        pool.shutdown(wait=False)
        return cls(graphs, grid_shape=grid_shape, per_frame=per_frame, files=files)

    def on_one_core(self) -> OnnxBackend:
        """Return a backend of the same graphs whose every call takes one core, or this one.

        Several threads may call it side by side; see `regard.lanes`.
        """
        if not self._files:
            return self
        return self._opened(self._files, self.grid_shape, self.per_frame, 1)

    def alone(self) -> Callable[[], None]:
        """Do nothing: `on_one_core` has seen to it; see `regard.lanes.in_lanes`."""
        return lambda: None

    def for_frames(self, grid_shape: tuple[int, ...]) -> OnnxBackend:
        """Return a backend of clips whose frames a backend of pictures encodes one by one."""
        return OnnxBackend(self._graphs, grid_shape=grid_shape, per_frame=True, files=self._files)

    def encode(
        self, pixels: np.ndarray, grids: tuple[Grid, ...], mask: np.ndarray | None = None
    ) -> Annotations:
        """Encode preprocessed pixels (N, ...) to annotations (N, L, D); see `Backend.encode`."""
        if mask is None:
            mask = np.ones((len(pixels), math.prod(self.grid_shape)), bool)
        pixels = np.ascontiguousarray(pixels, np.float32)
        if self.per_frame:
            vectors = self._frames(pixels, mask)
        else:
            vectors = self._run("encoder", pixels=pixels)["vectors"]
            if not mask.all():
                vectors = vectors * mask[..., None]
        return Annotations(vectors, mask, grids)

    def _frames(self, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Encode (N, K, 3, S, S) frame by frame; the vectors of frames that lack are 0."""
        items, frames = pixels.shape[:2]
        real = mask.reshape(items, frames, -1)[..., 0]
        cells = math.prod(self.grid_shape) // frames
        found = self._run("encoder", pixels=pixels[real])["vectors"]
        if cells == 1:  # one vector a frame: the mean of its map
            found = found.mean(1, keepdims=True)
        vectors = np.zeros((items, frames, *found.shape[1:]), np.float32)
        vectors[real] = found
        if "motion" in self._graphs:
            moved = self._run("motion", pixels=pixels, real=real)["vectors"]
            vectors = np.concatenate([vectors, moved], -1)
        return vectors.reshape(items, frames * cells, -1)

    def _run(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run a graph; one of another model may not give what is wanted."""
        found = self._graphs[name](**inputs)
        lacking = _GIVE[name] - found.keys()
        if lacking:
            raise CheckpointError(
                f"the graph {name} does not give {' and '.join(sorted(lacking))}: it is of another "
                "model. Export the model again."
            )
        return found

    def init_state(
        self, annotations: Annotations, captions_per_item: int = 1
    ) -> tuple[ProjectedAnnotations, DecoderState]:
        """Project annotations once and return the first state, N·G rows."""
        found = self._run("init", vectors=annotations.vectors, mask=annotations.mask)
        hidden, memory = (
            np.repeat(found[name], captions_per_item, axis=0) for name in ("hidden", "memory")
        )
        projected = ProjectedAnnotations(found["values"], found["keys"], annotations.mask)
        return projected, DecoderState(hidden, memory)

    def step(
        self,
        token: np.ndarray,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: np.random.Generator | None = None,
    ) -> Step:
        """Run the step's graph.

        A location is sampled as arg max(log alpha + Gumbel noise), drawn from the generator;
        without noise the same arg max is the most likely location.

        Raises:
            UnknownName: there is no such context.
            ConfigError: locations are to be sampled and no generator came.
        """
        if context not in _CONTEXTS:
            raise UnknownName("context", context, _CONTEXTS)
        items, cells = projected.mask.shape
        grouped = (items, len(token) // items)
        feed: dict[str, Any] = {
            "token": token.reshape(grouped),
            "hidden": state.hidden.reshape(*grouped, -1),
            "memory": state.memory.reshape(*grouped, -1),
            "values": projected.values,
            "keys": projected.keys,
            "mask": projected.mask,
        }
        graph = self._graphs["step"]
        if "noise" in graph.takes:
            feed["chosen"] = np.array(context != "expected")
            feed["noise"] = np.zeros((len(token), cells), np.float32)
            if context == "sample":
                if generator is None:
                    raise ConfigError("context='sample' needs a generator; pass one.")
                feed["noise"] = generator.gumbel(size=(len(token), cells)).astype(np.float32)
        found = self._run("step", **feed)
        chosen = context != "expected"
        return Step(
            found["logits"],
            DecoderState(found["next_hidden"], found["next_memory"]),
            found["alpha"],
            found.get("beta"),
            found.get("location") if chosen else None,
            found.get("location_logprob") if chosen else None,
        )

    def asarray(self, x: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return x

    def generator(self, seed: int) -> np.random.Generator:
        """Return a fresh generator for sampled locations."""
        return np.random.default_rng(seed)


def available_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_graph(graph: Path | bytes, threads: int = 0) -> Any:
    """Return an onnxruntime session of a graph on the CPU.

    Args:
        graph: its file, or its bytes.
        threads: 0: as onnxruntime chooses.

    Raises:
        CheckpointError: it cannot be loaded.
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores from those that read the next pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no public base
        name = "the graph" if isinstance(graph, bytes) else str(graph)
        raise CheckpointError(
            f"{name} cannot be loaded by onnxruntime: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
