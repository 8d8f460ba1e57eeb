"""A clip's attention frame by frame, in multiples of uniform attention over its real frames.

Frames that a short clip lacks are padding: nothing is looked at there, nothing is drawn of them,
and "uniform" leaves them out.
"""

from __future__ import annotations

import numpy as np

from regard.errors import ConfigError
from regard.explain.maps import SCALE_LEAST, absolute_scale
from regard.types import Caption, Clip, Grid, Word

_STANDS_OUT = 1.05
"""A frame that no more than this many times uniform was looked at is no peak but a ripple."""


def clip_of(caption: Caption) -> Clip:
    """Return the clip that a caption holds.

    Raises:
        ConfigError: the caption does not hold its clip.
    """
    if not isinstance(caption.media, Clip):
        raise ConfigError("this caption holds no clip to draw on; caption the file again.")
    return caption.media


def real_alpha(word: Word, grid: Grid) -> np.ndarray:
    """Return a word's weights on a clip's real frames, (n,) or (n, rows, cols)."""
    return word.alpha[: len(grid.spans)]


def frame_weights(caption: Caption) -> np.ndarray:
    """Return every word's attention on every real frame, (T, n), in multiples of uniform 1/n.

    A frame's attention is the sum of its cells'.
    """
    grid, frames = caption.grid, len(caption.grid.spans)
    alpha = caption.trace.alpha[:, : grid.real_cells].astype(np.float64)
    cells = grid.real_cells // frames
    return alpha.reshape(len(alpha), frames, cells).sum(-1) * frames


def frame_scale(weights: np.ndarray) -> float:
    """Return the top of one scale for all of a caption's frame weights, at least 2."""
    return max(SCALE_LEAST, float(weights.max(initial=0.0)))


def frame_grid(grid: Grid) -> Grid | None:
    """Return the grid of one frame's cells on the frame; None of a grid of whole frames."""
    if len(grid.shape) == 1:
        return None
    height, width = grid.source_size[1:]
    return Grid(("rows", "cols"), grid.shape[1:], (height, width), grid.extent[1:])


def frame_map(word: Word, grid: Grid, frame: int) -> np.ndarray:
    """Return a word's weights on a frame's cells, (rows, cols), as if the frame were all.

    They sum to the frame's weight in multiples of 1/n, so that `relative_map` of them is in
    multiples of uniform attention over the cells of all frames.
    """
    return word.alpha[frame] * len(grid.spans)


def map_scale(caption: Caption, *, smooth: bool) -> float:
    """Return the top of one scale for the maps of all words on all frames.

    Args:
        caption: of a clip on a grid of (frames, rows, cols).
        smooth: whether smoothed maps or raw cells are drawn.
    """
    grid, still = caption.grid, frame_grid(caption.grid)
    assert still is not None
    alpha = caption.trace.alpha[:, : grid.real_cells] * len(grid.spans)
    return absolute_scale(alpha, still, smooth=smooth)


def chosen_frame(word: Word, grid: Grid) -> int | None:
    """Return the frame of the one cell that hard attention looked at; None otherwise."""
    if word.location is None:
        return None
    return int(np.unravel_index(word.location, grid.shape)[0])


def peak_frame(weights: np.ndarray) -> int | None:
    """Return the frame that a word looked at most; None where it looked at all alike.

    Args:
        weights: (n,) of one word, in multiples of uniform.
    """
    peak = int(weights.argmax())
    return peak if weights[peak] >= _STANDS_OUT else None


def shown_frames(count: int, most: int, peak: int | None) -> list[int]:
    """Choose at most so many of a clip's frames, spread evenly, the peak among them.

    The frames are cut into chunks as even as possible; the middle of each is shown, and in the
    peak's chunk the peak.

    Args:
        count: of frames.
        most: that are shown.
        peak: the frame that a word looked at most; None: there is none.
    """
    chunks = np.array_split(np.arange(count), min(count, most))
    middle = [int(chunk[len(chunk) // 2]) for chunk in chunks]
    if peak is None:
        return middle
    return [peak if peak in chunk else at for chunk, at in zip(chunks, middle, strict=True)]
