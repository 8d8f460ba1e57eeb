"""The contact sheet: the picture, then the picture once for every word with its map."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from regard.errors import ConfigError
from regard.explain.fonts import font_for
from regard.explain.maps import absolute_scale, upsample
from regard.media import cell_bounds
from regard.types import Caption, Word

_COLOURS = "inferno"  # light means much, dark little, also for the colour-blind
_INK, _QUIET = "#1d2433", "#667085"
_DRAWN_PIXELS = 256  # longer side of each drawn picture


def contact_sheet(
    caption: Caption, *, smooth: bool = True, columns: int = 0, width: float = 12.0
) -> Figure:
    """Draw where the decoder looked for each word.

    All maps share one absolute scale in multiples of uniform attention, so that a flat map
    looks flat; the footer names the grid, the upsampling and the scale.

    Args:
        caption: with its source picture.
        smooth: a Gaussian over the cells; False shows the raw grid.
        columns: panels in a row; 0 chooses.
        width: of the figure in inches.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: the caption does not hold its picture.
    """
    if caption.pixels is None:
        raise ConfigError("this caption holds no picture to draw on; caption the file again.")
    picture = _scaled(caption.pixels)
    panels = len(caption.words) + 1
    columns = columns or min(panels, 6 if panels > 8 else 5)
    rows = math.ceil(panels / columns)
    # A very long or flat picture must not make a figure of a kilometre.
    aspect = min(4.0, max(0.25, picture.shape[0] / picture.shape[1]))
    panel_width = (width - 0.9) / columns
    panel_height = panel_width * aspect + 0.52
    height = rows * panel_height + 1.35
    figure = Figure(figsize=(width, height), facecolor="white")
    family, lacking = font_for(caption.text)
    grid = figure.add_gridspec(
        rows, columns, left=0.02, right=1 - 0.9 / width, top=1 - 0.95 / height,
        bottom=0.4 / height, wspace=0.06, hspace=0.52 / (panel_width * aspect + 0.01),
    )  # fmt: skip
    figure.text(0.02, 1 - 0.32 / height, caption.text, size=17, weight="bold", color=_INK,
                va="center", family=family)  # fmt: skip
    axes = [figure.add_subplot(grid[i // columns, i % columns]) for i in range(panels)]
    _draw_picture(axes[0], picture)
    scale = Normalize(0.0, absolute_scale(caption))
    for axis, word in zip(axes[1:], caption.words, strict=True):
        _draw_word(axis, caption, word, picture, scale, smooth=smooth, family=family)
    _colour_bar(figure, scale, width, height)
    figure.text(0.02, 0.14 / height, _footer(caption, smooth, lacking), size=8, color=_QUIET)
    return figure


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 110) -> None:
    """Write a figure as PNG (or whatever the suffix says), making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=dpi)


def _scaled(pixels: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(pixels)
    factor = _DRAWN_PIXELS / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def _draw_picture(axis: Axes, picture: np.ndarray) -> None:
    axis.imshow(picture)
    axis.set_axis_off()


def _draw_word(
    axis: Axes,
    caption: Caption,
    word: Word,
    picture: np.ndarray,
    scale: Normalize,
    *,
    smooth: bool,
    family: str,
) -> None:
    size = picture.shape[:2]
    relative = upsample(word.alpha, caption.grid, (size[0], size[1]), smooth=smooth)
    inside = np.nan_to_num(relative, nan=0.0)
    shade = colormaps[_COLOURS](scale(inside))[..., :3]
    grey = picture.mean(-1, keepdims=True) / 255
    # The picture stays readable under every colour: half of each.
    axis.imshow(np.clip(0.45 * grey + 0.55 * shade, 0, 1))
    if word.location is not None:
        _outline(axis, caption, word.location, picture)
    axis.set_axis_off()
    axis.set_title(word.text, size=13, color=_INK, pad=15, family=family)
    beta = "" if word.beta is None else f"  β {word.beta:.2f}"
    numbers = f"p {math.exp(word.logprob):.2f}  peak {word.peak:.2f}{beta}"
    axis.text(0.5, 1.03, numbers, size=7.5, color=_QUIET, ha="center", transform=axis.transAxes)


def _outline(axis: Axes, caption: Caption, cell: int, picture: np.ndarray) -> None:
    """Frame the one cell that hard attention looked at."""
    (top, bottom), (left, right) = cell_bounds(caption.grid, cell)
    y = picture.shape[0] / caption.grid.source_size[0]
    x = picture.shape[1] / caption.grid.source_size[1]
    axis.add_patch(
        Rectangle((left * x, top * y), (right - left) * x, (bottom - top) * y, fill=False,
                  edgecolor="#35d0ff", linewidth=2)
    )  # fmt: skip


def _colour_bar(figure: Figure, scale: Normalize, width: float, height: float) -> None:
    tall = min(2.2, height - 1.6)
    axis = figure.add_axes((1 - 0.62 / width, 0.5 / height, 0.13 / width, max(0.4, tall) / height))
    bar = figure.colorbar(ScalarMappable(scale, _COLOURS), cax=axis)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, colors=_QUIET, length=2)
    bar.ax.set_title("× uniform", size=7.5, color=_QUIET, pad=5, x=0.9)
    bar.ax.axhline(1.0, color="white", linewidth=1)


def _footer(caption: Caption, smooth: bool, lacking: str) -> str:
    shape = "×".join(map(str, caption.grid.shape))
    drawn = "smoothed by a Gaussian over the cells" if smooth else "raw cells"
    kind = caption.trace.attention
    if kind == "hard":
        kind += f", {caption.trace.context} location"
    note = f"   ·   no font has: {lacking}" if lacking else ""
    return (
        f"where the decoder looked ({kind} attention)   ·   {shape} cells, {drawn}   ·   one scale "
        f"for the caption, 1 = uniform   ·   {caption.model}{note}"
    )
