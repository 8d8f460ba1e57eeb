"""Attention maps on the source picture, on one absolute scale.

A map is drawn in multiples of uniform attention 1/L, never stretched to its own range: a flat
map is 1 everywhere and must look flat. A clip or a scan can be laid out as one picture, its frames
or slices side by side, so that sheets, viewers and diaries serve every medium; the film strip and
the montage show more of them.
"""

from dataclasses import replace

import numpy as np
from matplotlib import colormaps
from PIL import Image

from regard.errors import ConfigError
from regard.types import AttentionTrace, Caption, Clip, Grid, Media, Scan, Word

ENLARGE = 16
"""Points per cell in a smoothed map, as in the paper: 14 cells become 224 pixels."""
SIGMA_SIDE = 20 / 224
"""Width of the paper's Gaussian, 20 pixels, as a share of the grid's side."""
SIGMA_LEAST = 0.5
"""The Gaussian's least width in cells; a narrower one would leave a coarse grid angular."""
SCALE_LEAST = 2.0
"""Least top of the colour scale in multiples of uniform, so that a nearly flat map looks flat."""
COLOURS = "viridis"
"""Perceptually uniform and safe for the colour-blind; light means much attention."""
OPACITY = 0.72
"""Opacity of the colour at the top of the scale; it falls in proportion to the weight."""
_FIRST_COLOUR = 0.2  # darker ones would vanish in a picture's shadows
_IMAGES = 3  # reflections on each side; on one cell the Gaussian is half a cell wide
_GREY = 0.85  # how much of its own colour the picture gives up below a map
_UNSEEN = 0.65  # how far parts that no cell covers fade to white
_DRAWN_PIXELS = 360  # longer side of a drawn picture
_TILE_SIDE = 160  # pixels of a tile's longer side


def relative_map(alpha: np.ndarray) -> np.ndarray:
    """Return one word's alpha in multiples of uniform, alpha · L, in its own shape."""
    return alpha * alpha.size


def sigma_cells(cells: int) -> float:
    """Return the width of the smoothing Gaussian along an axis, in cells."""
    return max(SIGMA_LEAST, SIGMA_SIDE * cells)


def smoothing(cells: int, enlarge: int = ENLARGE) -> np.ndarray:
    """Return the smoothing matrix of one axis, (cells · enlarge, cells).

    Bilinear enlargement, then a Gaussian, as the paper draws its maps (Xu et al. 2015,
    section 5.4). The Gaussian is reflected at the border, so that rows sum to 1 (a flat map stays
    exactly flat) and columns to `enlarge` (no attention is lost or created).

    Args:
        cells: along the axis.
        enlarge: points per cell.
    """
    points = (np.arange(cells * enlarge) + 0.5) / enlarge
    sigma = sigma_cells(cells)
    gauss = np.zeros((len(points), len(points)))
    for shift in range(-_IMAGES, _IMAGES + 1):  # the mirror images of mirror images too
        for image in (points, -points):
            gauss += np.exp(-0.5 * ((points[:, None] - image - 2 * shift * cells) / sigma) ** 2)
    # Even the sum over all images is a little uneven between points, where it is cut off.
    gauss /= gauss.sum(1, keepdims=True)
    return gauss @ between(points, cells)


def absolute_scale(alpha: np.ndarray, grid: Grid, *, smooth: bool = False) -> float:
    """Return the top of a caption's colour scale in multiples of uniform.

    One scale serves all words of a caption: its largest drawn value, at least 2.

    Args:
        alpha: (T, L) weights of all words.
        grid: the grid of the L cells.
        smooth: whether smoothed maps or raw cells are drawn.
    """
    require_picture_grid(grid)
    relative = (alpha * grid.cells).reshape(-1, *grid.shape)
    if smooth:
        rows, cols = (smoothing(cells) for cells in grid.shape)
        relative = rows @ relative @ cols.T
    return max(SCALE_LEAST, float(relative.max(initial=0.0)))


def upsample(
    alpha: np.ndarray, grid: Grid, size: tuple[int, int], *, smooth: bool = True
) -> np.ndarray:
    """Lay a word's attention over a drawing of its source.

    Args:
        alpha: (rows, cols) weights of one word.
        grid: where the cells lie on the source. Cells beyond the source (padding) are not
            drawn.
        size: (height, width) of the drawing, which corresponds to the grid's source_size.
        smooth: see `smoothing`; False gives every pixel the value of its cell.

    Returns:
        (height, width) float32 in multiples of uniform; nan outside the cells, such as the part
        that a centre crop cut off.

    Raises:
        ConfigError: the grid is not one of rows and columns.
    """
    require_picture_grid(grid)
    places = [_places(grid, axis, pixels) for axis, pixels in enumerate(size)]
    inside = [(p >= 0) & (p < n) for p, n in zip(places, grid.shape, strict=True)]
    rows, cols = (
        between(place * ENLARGE, cells * ENLARGE) @ smoothing(cells)
        if smooth
        else nearest(place, cells)
        for place, cells in zip(places, grid.shape, strict=True)
    )
    values = rows @ relative_map(alpha.astype(np.float64)) @ cols.T
    return np.where(inside[0][:, None] & inside[1], values, np.nan).astype(np.float32)


def paint(pixels: np.ndarray, relative: np.ndarray, top: float) -> np.ndarray:
    """Paint a map over a picture.

    The picture turns nearly grey, so that every colour is the map's. Parts that no cell covers
    are faded, because the decoder does not see them.

    Args:
        pixels: (height, width, 3) uint8.
        relative: (height, width) in multiples of uniform; nan where no cell lies.
        top: the top of the colour scale.

    Returns:
        (height, width, 3) uint8.
    """
    picture = pixels.astype(np.float64) / 255
    grey = (picture @ (0.299, 0.587, 0.114))[..., None]
    picture += _GREY * (grey - picture)
    colour, opacity = colours(np.nan_to_num(relative, nan=0.0) / top)
    picture += opacity[..., None] * (colour - picture)
    unseen = np.isnan(relative)[..., None]
    picture = np.where(unseen, picture + _UNSEEN * (1 - picture), picture)
    return np.rint(255 * picture).astype(np.uint8)


def colours(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour (..., 3) and the opacity (...) of shares of the scale, all in 0..1."""
    share = np.clip(share, 0.0, 1.0)
    return colormaps[COLOURS](_FIRST_COLOUR + (1 - _FIRST_COLOUR) * share)[..., :3], OPACITY * share


def require_picture_grid(grid: Grid) -> None:
    """Check that a grid lies on a still picture.

    Raises:
        ConfigError: the grid is not one of rows and columns.
    """
    if grid.axes != ("rows", "cols"):
        raise ConfigError(
            f"Cannot draw maps on a grid of {' × '.join(grid.axes)}: a picture's grid has rows × "
            "cols. Lay the caption out with `regard.explain.maps.as_picture`, or read the weights "
            "from its words' alpha."
        )


def _places(grid: Grid, axis: int, pixels: int) -> np.ndarray:
    """Return where the centre of each drawn pixel lies along an axis, in cells."""
    source = (np.arange(pixels) + 0.5) / pixels * grid.source_size[axis]
    start, stop = grid.extent[axis]
    return (source - start) / (stop - start) * grid.shape[axis]


def nearest(places: np.ndarray, cells: int) -> np.ndarray:
    """Return (places, cells): 1 for the cell that each place lies in."""
    return np.eye(cells)[np.clip(np.floor(places).astype(int), 0, cells - 1)]


def between(places: np.ndarray, cells: int) -> np.ndarray:
    """Return (places, cells): linear interpolation between the centres of cells."""
    centred = np.clip(places - 0.5, 0, cells - 1)
    return np.clip(1 - np.abs(centred[:, None] - np.arange(cells)), 0, None)


# Clips and scans as one picture


def as_picture(caption: Caption) -> Caption:
    """Return a clip's or a scan's caption as one of a picture of tiles.

    Frames go from left to right and from top to bottom; slices from inferior to superior, each
    in radiological orientation: anterior above, the patient's left on the right. Padding is left
    out. A picture's caption is returned as it is.

    Args:
        caption: with its source.
    """
    if caption.media is None or caption.grid.axes == ("rows", "cols"):
        return caption
    media, grid, cells = tiled(caption.media, caption.grid)
    trace = caption.trace
    back = {int(cell): place for place, cell in enumerate(cells)}
    words = tuple(_moved_word(word, grid, cells, back) for word in caption.words)
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
        media: a clip or a scan; a picture is returned as it is.
        grid: grid of its cells.

    Returns:
        The picture, the grid of its cells, and for each of its cells the flat index of the same
        cell in `grid`.
    """
    if isinstance(media, Clip):
        tiles = [_frame(media, grid, at) for at in range(len(grid.spans))]
        order = np.arange(grid.real_cells).reshape(len(tiles), *(grid.shape[1:] or (1, 1)))
    elif isinstance(media, Scan):
        real = [np.flatnonzero(grid.real_along(axis)) for axis in range(3)]
        tiles = [_slice(media, grid, int(at), real[1:]) for at in real[0]]
        order = np.arange(grid.cells).reshape(grid.shape)[np.ix_(*real)]
        order = order[:, ::-1, ::-1]  # in radiological orientation
    else:
        return media, grid, np.arange(grid.cells)
    columns = _columns(len(tiles))
    picture, cells = _laid(np.stack(tiles), columns), _laid(order, columns)
    size = (picture.shape[0], picture.shape[1])
    extent = ((0.0, float(size[0])), (0.0, float(size[1])))
    laid = Grid(("rows", "cols"), cells.shape, size, extent)
    return Media("image", picture, media.name, media.digest, media.notes), laid, cells.ravel()


def grey_slice(scan: Scan, values: np.ndarray) -> np.ndarray:
    """Return a scan's values as grey shades of its intensity window, uint8."""
    low, high = scan.window
    share = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)


def _moved_word(word: Word, grid: Grid, cells: np.ndarray, back: dict[int, int]) -> Word:
    alpha = word.alpha.ravel()[cells].reshape(grid.shape)
    location = None if word.location is None else back[word.location]
    return replace(word, alpha=alpha, location=location)


def _columns(tiles: int) -> int:
    """Return tiles per row, such that all rows are full."""
    return next(n for n in range(1, tiles + 1) if tiles % n == 0 and n * n >= tiles)


def _laid(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Lay (n, rows, cols, ...) out as (n / columns · rows, columns · cols, ...)."""
    n, rows, cols = tiles.shape[:3]
    grouped = tiles.reshape(n // columns, columns, rows, cols, *tiles.shape[3:])
    return np.moveaxis(grouped, 1, 2).reshape(n // columns * rows, columns * cols, *tiles.shape[3:])


def _frame(clip: Clip, grid: Grid, at: int) -> np.ndarray:
    """Return the part of a frame that its cells cover, (height, width, 3) uint8."""
    whole = tuple((0.0, float(side)) for side in clip.frame_size)
    return _cut(clip.pixels[at], clip.frame_size, grid.extent[1:] or whole)


def _slice(scan: Scan, grid: Grid, at: int, real: list[np.ndarray]) -> np.ndarray:
    """Return the slice in the middle of a layer of cells as it is drawn, (h, w, 3) uint8.

    Args:
        scan: the scan.
        grid: grid of its cells.
        at: index of the layer.
        real: indices of the rows and of the columns that are not padding.
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
    """Return the extent of some neighbouring cells of an axis."""
    start, stop = extent
    size = (stop - start) / cells
    return start + int(kept[0]) * size, start + (int(kept[-1]) + 1) * size


def _cut(
    pixels: np.ndarray, size: tuple[float, ...], extent: tuple[tuple[float, float], ...]
) -> np.ndarray:
    """Return the part of a picture that an extent covers, black where it goes beyond."""
    spans = [stop - start for start, stop in extent]
    scale = _TILE_SIDE / max(spans)
    height, width = (max(1, round(span * scale)) for span in spans)
    (top, bottom), (left, right) = extent
    down, along = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    a, b = (right - left) * along / width, (bottom - top) * down / height
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    affine, smooth = (a, 0, left * along, 0, b, top * down), Image.Resampling.BILINEAR
    return np.asarray(picture.transform((width, height), Image.Transform.AFFINE, affine, smooth))


def drawing_of(pixels: np.ndarray, side: int = _DRAWN_PIXELS) -> np.ndarray:
    """Return a picture scaled for drawing, by its longer side."""
    picture = Image.fromarray(pixels)
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def size_of(picture: np.ndarray) -> tuple[int, int]:
    """Return (height, width) of a drawing."""
    return picture.shape[0], picture.shape[1]
