"""A clip's attention frame by frame, in multiples of uniform attention over its real frames.

Frames that a short clip lacks are padding: they receive no attention, they are not drawn, and
"uniform" leaves them out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.explain.drawing import missing_source, size_of
from regard.explain.maps import SCALE_LEAST, absolute_scale, paint, upsample
from regard.types import Caption, Clip, Grid, Word

SECONDS_SCALE_NOTE = (
    "One absolute scale for the whole caption, in multiples of uniform attention over the clip's "
    "frames; dashed: 1 = uniform"
)
EVEN_LABEL = "all frames alike"
"""Stands where no frame has a peak."""
_PEAK_LEAST = 1.05
"""Least peak in multiples of uniform; the frames of a flatter word count as alike."""


@dataclass(frozen=True, eq=False)
class ClipMaps:
    """The attention of a clip's caption, by frame and, where the grid has cells, within frames.

    Attributes:
        caption: of T words.
        clip: with n real frames.
        weights: (T, n) `frame_weights`.
        cells: grid of one frame's cells; None of a grid of whole frames.
    """

    caption: Caption
    clip: Clip
    weights: np.ndarray
    cells: Grid | None

    @classmethod
    def from_caption(cls, caption: Caption) -> ClipMaps:
        """Read the attention of a caption.

        Raises:
            ConfigError: the caption does not hold its clip.
        """
        if not isinstance(caption.media, Clip):
            raise missing_source("clip")
        return cls(caption, caption.media, frame_weights(caption), frame_grid(caption.grid))

    @property
    def peaks(self) -> list[int | None]:
        """The frame that each word looked at most; see `peak_frame`."""
        return [peak_frame(row) for row in self.weights]

    def scale(self, *, smooth: bool) -> float:
        """Return the top of one scale for the maps of all words on all frames.

        Args:
            smooth: whether smoothed maps or raw cells are drawn.
        """
        if self.cells is None:
            return frame_scale(self.weights)
        grid = self.caption.grid
        alpha = self.caption.trace.alpha[:, : grid.real_cells] * len(grid.spans)
        return absolute_scale(alpha, self.cells, smooth=smooth)

    def painted(
        self, t: int, frame: int, picture: np.ndarray, top: float, *, smooth: bool
    ) -> np.ndarray:
        """Paint a word's map over a drawing of a frame; its weight alone where it has no cells.

        Args:
            t: the word.
            frame: the frame.
            picture: drawing of the frame.
            top: of the colour scale.
            smooth: see `regard.explain.maps.smoothing`.
        """
        size = size_of(picture)
        if self.cells is None:
            return paint(picture, np.full(size, self.weights[t, frame]), top)
        # As if the frame were all: the weights sum to the frame's in multiples of 1/n, so that
        # `relative_map` of them is in multiples of uniform over the cells of all frames.
        alpha = self.caption.words[t].alpha[frame] * len(self.clip.spans)
        return paint(picture, upsample(alpha, self.cells, size, smooth=smooth), top)


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


def chosen_frame(word: Word, grid: Grid) -> int | None:
    """Return the frame of the one cell that hard attention looked at; None otherwise."""
    if word.location is None:
        return None
    return int(np.unravel_index(word.location, grid.shape)[0])


def peak_frame(weights: np.ndarray) -> int | None:
    """Return the frame that a word looked at most; None where all are alike.

    Args:
        weights: (n,) of one word, in multiples of uniform.
    """
    peak = int(weights.argmax())
    return peak if weights[peak] >= _PEAK_LEAST else None


def shown_frames(count: int, most: int, peak: int | None) -> list[int]:
    """Choose at most `most` of a clip's frames, spread evenly, the peak among them.

    The frames are cut into chunks as even as possible; the middle of each is shown, and in the
    peak's chunk the peak.

    Args:
        count: of frames.
        most: frames shown.
        peak: the frame that a word looked at most; None without a peak.
    """
    chunks = np.array_split(np.arange(count), min(count, most))
    middle = [int(chunk[len(chunk) // 2]) for chunk in chunks]
    if peak is None:
        return middle
    return [peak if peak in chunk else at for chunk, at in zip(chunks, middle, strict=True)]


def frames_label(grid: Grid) -> str:
    """Name a clip's grid by its real frames, such as "12 frames of 7×7 cells"."""
    count = len(grid.spans)
    named = f"{count} frame{'' if count == 1 else 's'}"
    return named + (f" of {'×'.join(map(str, grid.shape[1:]))} cells" if grid.shape[1:] else "")


def unread_label(grid: Grid) -> str:
    """Name the seconds of a clip that no frame stands for; "" where there are none."""
    (start, stop), duration = grid.extent[0], grid.source_size[0]
    notes = [f"before {start:.1f} s"] if start > 0.05 else []
    notes += [f"after {stop:.1f} s"] if stop < duration - 0.05 else []
    return f"not read: {' and '.join(notes)}" if notes else ""
