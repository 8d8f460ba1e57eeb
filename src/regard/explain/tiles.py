"""A clip or a scan laid out as one picture: its frames or slices side by side, with their cells.

So whatever draws on a picture (sheet, viewer, diary, animation) serves every medium. The drawings
made for clips (film strip) and scans (montage) show more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from regard.types import AttentionTrace, Caption, Clip, Grid, Media, Scan, Word

_SIDE = 160  # pixels of a tile's longer side


def as_picture(caption: Caption) -> Caption:
    """Return the caption as one of a picture of tiles; a picture's caption as it is.

    Frames go from left to right and from top to bottom; slices from inferior to superior, each
    as radiologists look at it: anterior above, the patient's left on the right. Padding is left
    out.

    Args:
        caption: with its source.
    """
    if caption.media is None or caption.grid.axes == ("rows", "cols"):
        return caption
    media, grid, cells = tiled(caption.media, caption.grid)
    trace = caption.trace
    back = {int(cell): place for place, cell in enumerate(cells)}
    words = tuple(_word(word, grid, cells, back) for word in caption.words)
    location = trace.location
    if location is not None:
        location = np.array([back[int(cell)] for cell in location])
    moved = AttentionTrace(
        trace.alpha[:, cells], trace.beta, location, trace.attention, trace.context, grid
    )
    return replace(caption, words=words, trace=moved, media=media)


def tiled(media: Media, grid: Grid) -> tuple[Media, Grid, np.ndarray]:
    """Lay a clip or a scan out as one picture.

    Args:
        media: a clip or a scan; a picture is given back as it is.
        grid: of its cells.

    Returns:
        The picture, the grid of its cells, and for each of those cells the flat index of the
        cell of `grid` that it is.
    """
    if isinstance(media, Clip):
        tiles = [_frame(media, grid, at) for at in range(len(grid.spans))]
        order = np.arange(grid.real_cells).reshape(len(tiles), *_tile_cells(grid))
    elif isinstance(media, Scan):
        real = [np.flatnonzero(grid.real_along(axis)) for axis in range(3)]
        tiles = [_slice(media, grid, int(at), real[1:]) for at in real[0]]
        order = np.arange(grid.cells).reshape(grid.shape)[np.ix_(*real)]
        order = order[:, ::-1, ::-1]  # as they are drawn
    else:
        return media, grid, np.arange(grid.cells)
    columns = _columns(len(tiles))
    picture, cells = _laid(np.stack(tiles), columns), _laid(order, columns)
    size = (picture.shape[0], picture.shape[1])
    extent = ((0.0, float(size[0])), (0.0, float(size[1])))
    laid = Grid(("rows", "cols"), cells.shape, size, extent)
    return Media("image", picture, media.name, media.digest, media.notes), laid, cells.ravel()


def grey_slice(scan: Scan, values: np.ndarray) -> np.ndarray:
    """Return values of a scan as shades of its window, uint8."""
    low, high = scan.window
    share = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)


def _word(word: Word, grid: Grid, cells: np.ndarray, back: dict[int, int]) -> Word:
    alpha = word.alpha.ravel()[cells].reshape(grid.shape)
    location = None if word.location is None else back[word.location]
    return replace(word, alpha=alpha, location=location)


def _tile_cells(grid: Grid) -> tuple[int, ...]:
    return grid.shape[1:] or (1, 1)


def _columns(tiles: int) -> int:
    """Return tiles per row, such that all rows are full."""
    return next(n for n in range(1, tiles + 1) if tiles % n == 0 and n * n >= tiles)


def _laid(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Lay (n, rows, cols, ...) out as (n / columns · rows, columns · cols, ...)."""
    n, rows, cols = tiles.shape[:3]
    grouped = tiles.reshape(n // columns, columns, rows, cols, *tiles.shape[3:])
    return np.moveaxis(grouped, 1, 2).reshape(n // columns * rows, columns * cols, *tiles.shape[3:])


def _frame(clip: Clip, grid: Grid, at: int) -> np.ndarray:
    """Return what the cells of a frame cover, (height, width, 3) uint8."""
    frame = clip.pixels[at]
    if len(grid.shape) == 1:
        extent = ((0.0, float(clip.frame_size[0])), (0.0, float(clip.frame_size[1])))
        return _cut(frame, clip.frame_size, extent)
    return _cut(frame, clip.frame_size, grid.extent[1:])


def _slice(scan: Scan, grid: Grid, at: int, real: list[np.ndarray]) -> np.ndarray:
    """Return the slice in the middle of a layer of cells, as it is drawn, (h, w, 3) uint8.

    Args:
        scan: whose slice.
        grid: of its cells.
        at: which layer.
        real: of rows and columns those that are no padding, one after another.
    """
    start, stop = grid.extent[0]
    extent = [
        _part(grid.extent[axis], grid.shape[axis], kept)
        for axis, kept in zip((1, 2), real, strict=True)
    ]
    middle = start + (at + 0.5) * (stop - start) / grid.shape[0]
    number = int(np.clip(middle / grid.source_size[0] * scan.pixels.shape[0], 0,
                         scan.pixels.shape[0] - 1))  # fmt: skip
    shades = np.repeat(grey_slice(scan, scan.pixels[number])[..., None], 3, axis=-1)
    return _cut(shades, grid.source_size[1:], tuple(extent))[::-1, ::-1]


def _part(extent: tuple[float, float], cells: int, kept: np.ndarray) -> tuple[float, float]:
    """Return what some neighbouring cells of an axis cover."""
    start, stop = extent
    size = (stop - start) / cells
    return start + int(kept[0]) * size, start + (int(kept[-1]) + 1) * size


def _cut(
    pixels: np.ndarray, size: tuple[float, ...], extent: tuple[tuple[float, float], ...]
) -> np.ndarray:
    """Return the part of a picture that an extent covers, black where it goes beyond."""
    spans = [stop - start for start, stop in extent]
    scale = _SIDE / max(spans)
    height, width = (max(1, round(span * scale)) for span in spans)
    (top, bottom), (left, right) = extent
    down, along = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    a, b = (right - left) * along / width, (bottom - top) * down / height
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(pixels)).transform(
            (width, height),
            Image.Transform.AFFINE,
            (a, 0, left * along, 0, b, top * down),
            resample=Image.Resampling.BILINEAR,
        )
    )
