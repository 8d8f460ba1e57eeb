"""A model whose every word is known to depend on one cell, and on nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from regard.media import PreprocessingSpec, prepare
from regard.types import (
    Annotations,
    AttentionTrace,
    Caption,
    DecoderState,
    Grid,
    Media,
    ProjectedAnnotations,
    Step,
    Word,
)

SPEC = PreprocessingSpec(8, "squash", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
GRID = Grid(("rows", "cols"), (2, 2), (8, 8), ((0.0, 8.0), (0.0, 8.0)))
WORDS = 6


class PlantedBackend:
    """p(word t) is the logistic of how much brighter cell `cells[t]` is than the picture."""

    def __init__(self, cells: tuple[int, ...]) -> None:
        self.cells = cells

    def encode(self, pixels: np.ndarray, grids: tuple[Grid, ...], mask: Any = None) -> Annotations:
        shape = (len(pixels), 3, 2, 4, 2, 4)
        brightness = pixels.astype(np.float64).reshape(shape).mean((1, 3, 5)).reshape(-1, 4, 1)
        return Annotations(brightness, np.ones(brightness.shape[:2], bool), grids)

    def init_state(
        self, annotations: Annotations, captions_per_item: int = 1
    ) -> tuple[ProjectedAnnotations, DecoderState]:
        values = annotations.vectors
        step = np.zeros((len(values), 1))
        return ProjectedAnnotations(values, values, annotations.mask), DecoderState(step, step)

    def step(
        self, token: Any, state: DecoderState, projected: ProjectedAnnotations, **_: Any
    ) -> Step:
        t = int(state.hidden[0, 0])
        seen = projected.values[:, self.cells[t], 0] / 50
        logits = np.zeros((len(seen), WORDS))
        logits[:, 4] = seen  # word 4 against five others of logit 0
        alpha = np.full((len(seen), 4), 0.1)
        alpha[:, self.cells[t]] = 0.7
        return Step(logits, DecoderState(state.hidden + 1, state.memory), alpha)

    def asarray(self, x: np.ndarray) -> np.ndarray:
        return x

    def generator(self, seed: int) -> None:
        return None


def planted(cells: tuple[int, ...]) -> tuple[Any, Caption]:
    """A captioner and its caption of a picture whose four quarters differ in brightness."""
    backend = PlantedBackend(cells)
    quarters = np.array([[200, 20], [60, 140]], np.uint8)
    pixels = np.repeat(np.kron(quarters, np.ones((4, 4), np.uint8))[..., None], 3, axis=2)

    def annotate(media: list[Any]) -> Annotations:
        return Annotations(None, None, (GRID,) * len(media))

    alpha = np.full((len(cells), 4), 0.1, np.float32)
    alpha[np.arange(len(cells)), cells] = 0.7
    words = tuple(Word("dog", -0.5, row.reshape(2, 2), token=4) for row in alpha)
    caption = Caption(
        text=" ".join(["dog"] * len(cells)), words=words, score=-1.0, finished=True,
        trace=AttentionTrace(alpha, None, None, "soft", "expected", GRID),
        file="planted.png", medium="image", model="planted", seconds=0.0,
        media=Media("image", pixels, "planted.png", ""),
    )  # fmt: skip
    encoder = SimpleNamespace(spec=SPEC, prepare=lambda media: prepare(media, SPEC, GRID.shape))
    captioner = SimpleNamespace(backend=backend, encoder=encoder, annotate=annotate, name="planted")
    return captioner, caption
