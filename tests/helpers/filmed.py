"""Clips made by hand, and captions of them: frames of known brightness at known seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from regard.types import Caption, Clip, Grid
from tests.helpers import toys

SIZE = (24, 32)


def clip(
    brightness: tuple[int, ...] = (40, 80, 120, 160, 200),
    *,
    spans: tuple[tuple[float, float], ...] = (),
    size: tuple[int, int] = SIZE,
    name: str = "folder/clip.mp4",
    digest: str = "",
) -> Clip:
    """A clip whose frames are each of one brightness; without spans each stands for a second."""
    frames = np.array(brightness, np.uint8)[:, None, None, None]
    spans = spans or tuple((float(i), i + 1.0) for i in range(len(brightness)))
    return Clip(
        "video",
        np.broadcast_to(frames, (len(brightness), *size, 3)).copy(),
        name,
        digest,
        times=tuple((start + stop) / 2 for start, stop in spans),
        spans=spans,
        duration=spans[-1][1],
        frame_size=size,
    )


def temporal(clip: Clip, frames: int = 0) -> Grid:
    """The grid (frames,) of a clip; frames beyond the clip's own are padding."""
    shape = (frames or len(clip.spans),)
    extent = ((clip.spans[0][0], clip.spans[-1][1]),)
    return Grid(("frames",), shape, (clip.duration,), extent, clip.spans, clip.times)


def spatial(clip: Clip, rows: int = 2, cols: int = 2, frames: int = 0) -> Grid:
    """The grid (frames, rows, cols) of a clip."""
    flat = temporal(clip, frames)
    height, width = map(float, clip.frame_size)
    return replace(
        flat,
        axes=("frames", "rows", "cols"),
        shape=(flat.shape[0], rows, cols),
        source_size=(clip.duration, height, width),
        extent=(flat.extent[0], (0.0, height), (0.0, width)),
    )


def caption(
    texts: tuple[str, ...] = ("a", "dog", "runs"),
    *,
    alpha: np.ndarray | None = None,
    clip: Clip,
    grid: Grid | None = None,
    chosen: tuple[int, ...] = (),
) -> Caption:
    """A caption of a clip; alpha (T, L) is uneven unless given, `chosen` makes it hard."""
    grid = grid or temporal(clip)
    if alpha is None:
        draw = np.random.default_rng(1)
        alpha = np.zeros((len(texts), grid.cells))
        alpha[:, : grid.real_cells] = draw.dirichlet(np.ones(grid.real_cells), len(texts))
    still = Grid(("rows", "cols"), (1, grid.cells), (1, 1), ((0.0, 1.0), (0.0, 1.0)))
    made = toys.caption(texts, alpha=alpha, grid=still, chosen=chosen)
    words = tuple(replace(word, alpha=word.alpha.reshape(grid.shape)) for word in made.words)
    return replace(
        made,
        words=words,
        trace=replace(made.trace, grid=grid),
        file=clip.name,
        medium="video",
        media=clip,
    )
