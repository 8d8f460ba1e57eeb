"""The light backend: exported graphs under onnxruntime, everything else in numpy. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from regard.backends import IN_CACHE
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.types import Annotations, DecoderState, Grid, ProjectedAnnotations, Step
from regard.util.onnx_session import Graph, open_session

if TYPE_CHECKING:
    from regard.native import FastStep, ReadyAnnotations

_GIVE = {
    "encoder": {"vectors"},
    "motion": {"vectors"},
    "init": {"values", "keys", "hidden", "memory"},
    "step": {"logits", "next_hidden", "next_memory", "alpha"},
}
"""Outputs that every graph must have."""
_CONTEXTS = ("expected", "sample", "argmax")


class OnnxBackend:
    """Runs the graphs of a model; see `Backend` and `regard.checkpoint.components`."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        *,
        grid_shape: tuple[int, ...],
        per_frame: bool = False,
        files: Sequence[Path] = (),
        at_once: int = 0,
        steps: FastStep | None = None,
    ) -> None:
        """Take the graphs.

        Args:
            graphs: by "encoder", "init", "step" and, of some models of clips, "motion".
            grid_shape: of an item; L is its product.
            per_frame: whether the encoder reads the frames of a clip one by one.
            files: that the graphs came from, where they did.
            at_once: see `Backend.at_once`.
            steps: take the place of the graph "step"; None: none do.
        """
        self._graphs = dict(graphs)
        self.grid_shape, self.per_frame = grid_shape, per_frame
        self._files = tuple(files)
        self.at_once, self._steps = at_once, steps

    @classmethod
    def open(
        cls,
        folder: Path,
        names: Sequence[str],
        *,
        grid_shape: tuple[int, ...],
        per_frame: bool = False,
    ) -> OnnxBackend:
        """Load graphs from a checkpoint's folder, in their order and while others go on.

        What cannot be loaded is a `CheckpointError` when it is first used.

        Args:
            folder: with the graphs and `model.safetensors`.
            names: file names of the graphs.
            grid_shape: see the constructor.
            per_frame: see the constructor.
        """
        files = [folder / name for name in names]
        graphs = cls._opened(files, available_cores())
        return cls(graphs, grid_shape=grid_shape, per_frame=per_frame, files=files)

    @staticmethod
    def _opened(files: Sequence[Path], threads: int) -> dict[str, Graph]:
        pool = ThreadPoolExecutor(1)  # see `open_session`
        graphs = {file.stem: Graph(pool.submit(open_session, file, threads)) for file in files}
        pool.shutdown(wait=False)
        return graphs

    def on_one_core(self, steps: FastStep | None = None) -> OnnxBackend:
        """Return a backend of the same graphs whose every call takes one core, or this one.

        Several threads may call it side by side; see `regard.util.parallel`.

        Args:
            steps: of the same decoder, on one thread; they take the place of the graph "step".
        """
        if not self._files:
            return self
        own = [f for f in self._files if steps is None or f.stem != "step"]
        return OnnxBackend(
            self._opened(own, 1),
            grid_shape=self.grid_shape,
            per_frame=self.per_frame,
            files=self._files,
            at_once=IN_CACHE,
            steps=steps,
        )

    def alone(self) -> Callable[[], None]:
        """Do nothing: `on_one_core` has seen to it; see `regard.util.parallel.ordered_map`."""
        return lambda: None

    def for_frames(self, grid_shape: tuple[int, ...]) -> OnnxBackend:
        """Return a backend of clips whose frames a backend of pictures encodes one by one."""
        return OnnxBackend(
            self._graphs,
            grid_shape=grid_shape,
            per_frame=True,
            files=self._files,
            at_once=self.at_once,
            steps=self._steps,
        )

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
        state = DecoderState(hidden, memory)
        given = found["values"], found["keys"], annotations.mask
        if self._steps is not None:
            return self._steps.ready(*given, spend=True), state
        return ProjectedAnnotations(*given), state

    def step(
        self,
        token: np.ndarray,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: np.random.Generator | None = None,
    ) -> Step:
        """Run the step's graph, or what does the same faster.

        A location is sampled as arg max(log alpha + Gumbel noise), drawn from the generator;
        without noise the same arg max is the most likely location.

        Raises:
            UnknownName: there is no such context.
            ConfigError: locations are to be sampled and no generator came.
        """
        if context not in _CONTEXTS:
            raise UnknownName("context", context, _CONTEXTS)
        if self._steps is not None:
            choose = None
            if context != "expected" and self._steps.hard:
                noise = _noise(context, (len(token), projected.mask.shape[1]), generator)
                choose = partial(_likeliest, noise)
            return self._steps(token, state, cast("ReadyAnnotations", projected), choose)
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
        if "noise" in graph.inputs:
            feed["chosen"] = np.array(context != "expected")
            feed["noise"] = _noise(context, (len(token), cells), generator)
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


def _noise(
    context: str, shape: tuple[int, int], generator: np.random.Generator | None
) -> np.ndarray:
    """Return what is added to log alpha (B, L) before its arg max is looked at."""
    if context != "sample":
        return np.zeros(shape, np.float32)
    if generator is None:
        raise ConfigError("context='sample' needs a generator; pass one.")
    return generator.gumbel(size=shape).astype(np.float32)


def _likeliest(noise: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # cells that are none have alpha 0
        return (np.log(alpha) + noise).argmax(-1)


def available_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
