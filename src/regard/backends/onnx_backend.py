"""The light backend: exported graphs under onnxruntime and numpy, without torch."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from regard.backends import CACHED_PICTURES
from regard.errors import CheckpointError, ConfigError
from regard.types import Annotations, DecoderState, Grid, ProjectedAnnotations, Step
from regard.types.decoding import location_chooser
from regard.util.onnx_session import Graph, open_session

if TYPE_CHECKING:
    from regard.native.cpp_step import CppStep, PackedAnnotations

_OUTPUTS = {
    "encoder": {"vectors"},
    "motion": {"vectors"},
    "init": {"values", "keys", "hidden", "memory"},
    "step": {"logits", "next_hidden", "next_memory", "alpha"},
}
"""Outputs that each graph must have."""


class OnnxBackend:
    """Runs the graphs of a model; see `Backend` and `regard.checkpoint.components`."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        *,
        grid_shape: tuple[int, ...],
        per_frame: bool = False,
        files: Sequence[Path] = (),
        encoder_weights: Path | None = None,
    ) -> None:
        """Take the graphs.

        Args:
            graphs: by "encoder", "init", "step" and, of some models of clips, "motion".
            grid_shape: grid shape of an item; L is its product.
            per_frame: whether the encoder reads the frames of a clip one by one.
            files: files of the graphs, if they came from files.
            encoder_weights: the encoder's own file of weights, if it has one.
        """
        self._graphs = dict(graphs)
        self.grid_shape, self.per_frame = grid_shape, per_frame
        self._files, self._encoder_weights = tuple(files), encoder_weights
        self.encode_batch_size = 0
        self._cpp_step: CppStep | None = None  # takes the place of the graph "step"

    @classmethod
    def open(
        cls,
        folder: Path,
        names: Sequence[str],
        *,
        grid_shape: tuple[int, ...],
        per_frame: bool = False,
        encoder_weights: Path | None = None,
    ) -> OnnxBackend:
        """Load graphs from a checkpoint's folder in the background, in the given order.

        A graph that cannot be loaded raises `CheckpointError` when it is first used.

        Args:
            folder: with the graphs and `model.safetensors`.
            names: file names of the graphs.
            grid_shape: see the constructor.
            per_frame: see the constructor.
            encoder_weights: see the constructor.
        """
        files = [folder / name for name in names]
        graphs = cls._opened(files, available_cores(), encoder_weights)
        return cls(
            graphs,
            grid_shape=grid_shape,
            per_frame=per_frame,
            files=files,
            encoder_weights=encoder_weights,
        )

    @staticmethod
    def _opened(
        files: Sequence[Path], threads: int, encoder_weights: Path | None
    ) -> dict[str, Graph]:
        pool = ThreadPoolExecutor(1)  # see `open_session`
        graphs: dict[str, Graph] = {}
        for file in files:
            weights = encoder_weights if file.stem == "encoder" else None
            graphs[file.stem] = Graph(pool.submit(open_session, file, threads, weights=weights))
        pool.shutdown(wait=False)
        return graphs

    def on_one_core(self, cpp_step: CppStep | None = None) -> OnnxBackend:
        """Return a backend of the same graphs whose calls use one core each; may be this one.

        Several threads may call it side by side; see `regard.util.parallel`.

        Args:
            cpp_step: compiled step of the same decoder, on one thread; replaces the graph "step".
        """
        if not self._files:
            return self
        own = [f for f in self._files if cpp_step is None or f.stem != "step"]
        other = copy.copy(self)
        other._graphs, other._cpp_step = self._opened(own, 1, self._encoder_weights), cpp_step
        other.encode_batch_size = CACHED_PICTURES
        return other

    def use_one_core(self) -> Callable[[], None]:
        """Do nothing: `on_one_core` opened the sessions so; see `Backend.use_one_core`."""
        return lambda: None

    def for_frames(self, grid_shape: tuple[int, ...]) -> OnnxBackend:
        """Return a backend of clips whose frames a backend of pictures encodes one by one."""
        other = copy.copy(self)
        other.grid_shape, other.per_frame = grid_shape, True
        return other

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
        """Encode (N, K, 3, S, S) frame by frame; the vectors of missing frames are 0."""
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
        """Run a graph and return its outputs; raise if one is missing."""
        found = self._graphs[name](**inputs)
        lacking = _OUTPUTS[name] - found.keys()
        if lacking:
            raise CheckpointError(
                f"the graph {name} does not output {' and '.join(sorted(lacking))}: it is of "
                "another model. Export the model again."
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
        projected = found["values"], found["keys"], annotations.mask
        if self._cpp_step is not None:
            return self._cpp_step.pack(*projected, in_place=True), state
        pointed = found.get("naming"), found.get("forms")
        return ProjectedAnnotations(*projected, *pointed), state

    def step(
        self,
        token: np.ndarray,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: np.random.Generator | None = None,
    ) -> Step:
        """Run the step's graph, or its compiled equivalent.

        The graph samples a location as arg max(log alpha + Gumbel noise). Since the noise is
        -log E with exponential E, that is the rule of `location_chooser`.

        Raises:
            UnknownName: `context` is unknown.
            ConfigError: locations are to be sampled and `generator` is None.
        """
        items, cells = projected.mask.shape
        choose = location_chooser(context, lambda alpha: np.exp(-_gumbel(alpha.shape, generator)))
        if self._cpp_step is not None:
            packed = cast("PackedAnnotations", projected)
            return self._cpp_step(token, state, packed, choose if self._cpp_step.hard else None)
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
        if projected.naming is not None:
            feed["naming"] = projected.naming
        if "noise" in graph.inputs:
            shape = len(token), cells
            sampled = context == "sample"
            feed["chosen"] = np.array(choose is not None)
            feed["noise"] = _gumbel(shape, generator) if sampled else np.zeros(shape, np.float32)
        found = self._run("step", **feed)
        return Step(
            found["logits"],
            DecoderState(found["next_hidden"], found["next_memory"]),
            found["alpha"],
            found.get("beta"),
            found.get("location") if choose else None,
            found.get("location_logprob") if choose else None,
            copied=found.get("copied"),
        )

    def asarray(self, x: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return x

    def generator(self, seed: int) -> np.random.Generator:
        """Return a fresh generator for sampled locations."""
        return np.random.default_rng(seed)


def _gumbel(shape: tuple[int, int], generator: np.random.Generator | None) -> np.ndarray:
    if generator is None:
        raise ConfigError("context='sample' needs a generator; pass one.")
    return generator.gumbel(size=shape).astype(np.float32)


def available_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
