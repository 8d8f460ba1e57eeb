"""A clip's attention frame by frame, in multiples of uniform attention over its real frames.

Frames that a short clip lacks are padding: they receive no attention, they are not drawn, and
"uniform" leaves them out.
"""

import numpy as np

from regard.explain.drawing import missing_source
from regard.explain.maps import SCALE_LEAST, absolute_scale, paint, size_of, upsample
from regard.types import Caption, Clip, Grid

SECONDS_SCALE_NOTE = (
    "One absolute scale for the whole caption, in multiples of uniform attention over the clip's "
    "frames; dashed: 1 = uniform"
)
EVEN_LABEL = "all frames alike"
"""Shown if no frame has a peak."""
_PEAK_LEAST = 1.05
"""Least peak in multiples of uniform; a flatter word has no peak frame."""


class ClipMaps:
    """The attention of a clip's caption, by frame and, where the grid has cells, within frames.

    Attributes:
        caption: a caption of T words.
        grid: grid of the caption.
        weights: (T, n) `frame_weights`, on n real frames.
        top: top of one scale for all weights, at least 2.
        peaks: the frame with each word's largest weight; see `peak_frame`.
        chosen: the frame of the cell that hard attention chose, by word; None otherwise.
        cells: grid of one frame's cells; None for a grid of whole frames.
    """

    def __init__(self, caption: Caption) -> None:
        """Read the attention of a caption.

        Raises:
            ConfigError: the caption is not of a clip.
        """
        if caption.grid.axes[0] != "frames":
            raise missing_source("clip")
        self.caption, self.grid = caption, caption.grid
        self.weights = frame_weights(caption)
        self.top = max(SCALE_LEAST, float(self.weights.max(initial=0.0)))
        self.peaks = [peak_frame(row) for row in self.weights]
        self.chosen = [_frame_of(word.location, self.grid) for word in caption.words]
        self.cells = _frame_grid(self.grid)

    @property
    def clip(self) -> Clip:
        """The clip.

        Raises:
            ConfigError: the caption does not hold it.
        """
        if not isinstance(self.caption.media, Clip):
            raise missing_source("clip")
        return self.caption.media

    @property
    def notes(self) -> list[str]:
        """The frames, such as "12 frames of 7×7 cells", and the seconds that no frame covers."""
        cells = f" of {'×'.join(map(str, self.grid.shape[1:]))} cells" if self.cells else ""
        count = len(self.grid.spans)
        (start, stop), duration = self.grid.extent[0], self.grid.source_size[0]
        unread = [f"before {start:.1f} s"] if start > 0.05 else []
        unread += [f"after {stop:.1f} s"] if stop < duration - 0.05 else []
        named = f"{count} frame{'' if count == 1 else 's'}{cells}"
        return [named, f"not read: {' and '.join(unread)}" if unread else ""]

    def scale(self, *, smooth: bool) -> float:
        """Return the top of one scale for the maps of all words on all frames.

        Args:
            smooth: whether smoothed maps or raw cells are drawn.
        """
        if self.cells is None:
            return self.top
        alpha = self.caption.trace.alpha[:, : self.grid.real_cells] * len(self.grid.spans)
        return absolute_scale(alpha, self.cells, smooth=smooth)

    def painted(
        self, t: int, frame: int, picture: np.ndarray, top: float, *, smooth: bool
    ) -> np.ndarray:
        """Paint a word's map over a drawing of a frame; its weight alone where it has no cells.

        Args:
            t: the word.
            frame: the frame.
            picture: drawing of the frame.
            top: top of the colour scale.
            smooth: see `regard.explain.maps.smoothing`.
        """
        size = size_of(picture)
        if self.cells is None:
            return paint(picture, np.full(size, self.weights[t, frame]), top)
        # As if the frame were all: the weights sum to the frame's in multiples of 1/n, so that
        # `relative_map` of them is in multiples of uniform over the cells of all frames.
        alpha = self.caption.words[t].alpha[frame] * len(self.grid.spans)
        return paint(picture, upsample(alpha, self.cells, size, smooth=smooth), top)


def frame_weights(caption: Caption) -> np.ndarray:
    """Return every word's attention on every real frame, (T, n), in multiples of uniform 1/n.

    A frame's attention is the sum of its cells'.
    """
    grid, frames = caption.grid, len(caption.grid.spans)
    alpha = caption.trace.alpha[:, : grid.real_cells].astype(np.float64)
    cells = grid.real_cells // frames
    return alpha.reshape(len(alpha), frames, cells).sum(-1) * frames


def _frame_grid(grid: Grid) -> Grid | None:
    if len(grid.shape) == 1:
        return None
    height, width = grid.source_size[1:]
    return Grid(("rows", "cols"), grid.shape[1:], (height, width), grid.extent[1:])


def _frame_of(location: int | None, grid: Grid) -> int | None:
    return None if location is None else int(np.unravel_index(location, grid.shape)[0])


def peak_frame(weights: np.ndarray) -> int | None:
    """Return the frame with a word's largest weight; None if all weights are equal.

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
        count: number of frames.
        most: maximum number of frames shown.
        peak: the frame with a word's largest weight; None without a peak.
    """
    chunks = np.array_split(np.arange(count), min(count, most))
    middle = [int(chunk[len(chunk) // 2]) for chunk in chunks]
    if peak is None:
        return middle
    return [peak if peak in chunk else at for chunk, at in zip(chunks, middle, strict=True)]
