"""Models whose every word is known to depend on one cell or frame, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from regard.media import ClipSpec, PreprocessingSpec
from regard.media.reader import prepare
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
from tests.helpers import filmed

SPEC = PreprocessingSpec(8, "squash", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
GRID = Grid(("rows", "cols"), (2, 2), (8, 8), ((0.0, 8.0), (0.0, 8.0)))
WORDS = 6


class PlantedBackend:
    """p(word t) is the logistic of the brightness of cell `cells[t]` alone."""

    def __init__(self, cells: tuple[int, ...]) -> None:
        self.cells = cells
        self.encoded = 0  # items
        self.encode_batch_size = 0

    def encode(self, pixels: np.ndarray, grids: tuple[Grid, ...], mask: np.ndarray) -> Annotations:
        self.encoded += len(pixels)
        # (N, [frames,] colours, rows, pixels of a row, cols, pixels of a column)
        blocks = pixels.astype(np.float64).reshape(*pixels.shape[:-2], 2, 4, 2, 4)
        cells = blocks.mean((-5, -3, -1)).reshape(*mask.shape, -1)
        return Annotations(cells.mean(-1, keepdims=True), mask, grids)

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
        cells = projected.values.shape[1]
        alpha = np.full((len(seen), cells), 0.3 / (cells - 1))
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
    encoder = SimpleNamespace(
        spec=SPEC, pictures_per_item=1, prepare=lambda media: prepare(media, SPEC, GRID.shape)
    )
    captioner = SimpleNamespace(backend=backend, reader=encoder, annotate=annotate, name="planted")
    return captioner, caption


def planted_clip(
    cells: tuple[int, ...], shape: tuple[int, ...], *, alone: bool = True
) -> tuple[Any, Caption]:
    """A captioner and its caption of a clip of three frames of different brightness.

    Args:
        cells: that the words depend on.
        shape: of the grid, (frames,) or (frames, 2, 2); frames beyond three are padding.
        alone: whether the captioner says that its frames are encoded each for itself.
    """
    clip = filmed.clip((200, 20, 80))
    spec = ClipSpec(SPEC, shape[0], "chunks", "middle", 0, 1.0)
    encoder = SimpleNamespace(
        spec=spec, pictures_per_item=shape[0], frames_alone=alone,
        prepare=lambda media: prepare(media, spec, shape),
    )  # fmt: skip
    captioner = SimpleNamespace(backend=PlantedBackend(cells), reader=encoder, name="planted")
    grid = encoder.prepare(clip).grid
    alpha = np.zeros((len(cells), grid.cells), np.float32)
    alpha[:, : grid.real_cells] = 0.3 / (grid.real_cells - 1)
    alpha[np.arange(len(cells)), cells] = 0.7
    caption = filmed.caption(("dog",) * len(cells), alpha=alpha, clip=clip, grid=grid)
    words = tuple(replace(word, token=4) for word in caption.words)
    return captioner, replace(caption, words=words)
