"""The light backend: exported graphs under onnxruntime, everything else in numpy. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.types import Annotations, DecoderState, Grid, ProjectedAnnotations, Step

_CONTEXTS = ("expected", "sample", "argmax")


class OnnxBackend:
    """Runs the graphs of a model; see `Backend` and `regard.graphs`."""

    def __init__(
        self,
        sessions: Mapping[str, Any],
        *,
        grid_shape: tuple[int, ...],
        per_frame: bool = False,
    ) -> None:
        """Take open sessions.

        Args:
            sessions: onnxruntime sessions by "encoder", "init", "step" and maybe "motion".
            grid_shape: of an item; L is its product.
            per_frame: whether the encoder reads the frames of a clip one by one.
        """
        self._encoder, self._motion = sessions["encoder"], sessions.get("motion")
        self._init, self._step = sessions["init"], sessions["step"]
        self._sessions = dict(sessions)
        self._step_takes = {x.name for x in self._step.get_inputs()}
        self._step_gives = [x.name for x in self._step.get_outputs()]
        self.grid_shape, self.per_frame = grid_shape, per_frame

    @classmethod
    def open(
        cls,
        folder: Path,
        names: list[str],
        *,
        grid_shape: tuple[int, ...],
        per_frame: bool = False,
        threads: int = 0,
    ) -> OnnxBackend:
        """Load graphs from a checkpoint's folder.

        Args:
            folder: with the graphs and `model.safetensors`.
            names: file names of the graphs.
            grid_shape: see the constructor.
            per_frame: see the constructor.
            threads: of each graph; 0: as many as there are cores to run on.

        Raises:
            CheckpointError: a graph cannot be loaded.
        """
        threads = threads or len(os.sched_getaffinity(0)) if _HAS_AFFINITY else threads
        with ThreadPoolExecutor(2) as pool:  # loading folds constants, which takes a core
            opened = list(pool.map(lambda name: open_graph(folder / name, threads), names))
        sessions = {Path(name).stem: one for name, one in zip(names, opened, strict=True)}
        return cls(sessions, grid_shape=grid_shape, per_frame=per_frame)

    def for_frames(self, grid_shape: tuple[int, ...]) -> OnnxBackend:
        """Return a backend of clips whose frames a backend of pictures encodes one by one."""
        return OnnxBackend(self._sessions, grid_shape=grid_shape, per_frame=True)

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
            vectors = self._encoder.run(None, {"pixels": pixels})[0]
            if not mask.all():
                vectors = vectors * mask[..., None]
        return Annotations(vectors, mask, grids)

    def _frames(self, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Encode (N, K, 3, S, S) frame by frame; the vectors of frames that lack are 0."""
        items, frames = pixels.shape[:2]
        real = mask.reshape(items, frames, -1)[..., 0]
        cells = math.prod(self.grid_shape) // frames
        found = self._encoder.run(None, {"pixels": pixels[real]})[0]
        if cells == 1:  # one vector a frame: the mean of its map
            found = found.mean(1, keepdims=True)
        vectors = np.zeros((items, frames, *found.shape[1:]), np.float32)
        vectors[real] = found
        if self._motion is not None:
            moved = self._motion.run(None, {"pixels": pixels, "real": real})[0]
            vectors = np.concatenate([vectors, moved], -1)
        return vectors.reshape(items, frames * cells, -1)

    def init_state(
        self, annotations: Annotations, captions_per_item: int = 1
    ) -> tuple[ProjectedAnnotations, DecoderState]:
        """Project annotations once and return the first state, N·G rows."""
        feed = {"vectors": _plain(annotations.vectors), "mask": _plain(annotations.mask)}
        values, keys, hidden, memory = self._init.run(None, feed)
        state = (np.repeat(x, captions_per_item, axis=0) for x in (hidden, memory))
        return ProjectedAnnotations(values, keys, annotations.mask), DecoderState(*state)

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
            "token": _plain(token).reshape(grouped),
            "hidden": _plain(state.hidden).reshape(*grouped, -1),
            "memory": _plain(state.memory).reshape(*grouped, -1),
            "values": _plain(projected.values),
            "keys": _plain(projected.keys),
            "mask": _plain(projected.mask),
        }
        if "noise" in self._step_takes:
            feed["chosen"] = np.array(context != "expected")
            feed["noise"] = np.zeros((len(token), cells), np.float32)
            if context == "sample":
                if generator is None:
                    raise ConfigError("context='sample' needs a generator; pass one.")
                feed["noise"] = generator.gumbel(size=(len(token), cells)).astype(np.float32)
        feed = {name: value for name, value in feed.items() if name in self._step_takes}
        found = dict(zip(self._step_gives, self._step.run(None, feed), strict=True))
        if context == "expected":
            found.pop("location", None), found.pop("location_logprob", None)
        return Step(
            found["logits"],
            DecoderState(found["next_hidden"], found["next_memory"]),
            found["alpha"],
            found.get("beta"),
            found.get("location"),
            found.get("location_logprob"),
        )

    def asarray(self, x: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return x

    def generator(self, seed: int) -> np.random.Generator:
        """Return a fresh generator for sampled locations."""
        return np.random.default_rng(seed)


_HAS_AFFINITY = hasattr(os, "sched_getaffinity")  # not on every system


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
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no public base
        name = "the graph" if isinstance(graph, bytes) else str(graph)
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name} cannot be loaded by onnxruntime: {reason}") from error


def _plain(x: np.ndarray) -> np.ndarray:
    """Return memory that onnxruntime takes as it is."""
    return np.ascontiguousarray(x)
