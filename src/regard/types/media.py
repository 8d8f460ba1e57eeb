"""Media: pictures, clips and scans, and the grids of cells that lie on them.

`cell_bounds` and its neighbours map a grid's cells to the pixels, seconds or millimetres that they
cover, and back. Drawings, pointing scores, heat maps and pages all use them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Medium:
    """A kind of source: its name in messages, and the axes of its grids.

    Attributes:
        noun: the name of one file.
        phrase: the noun with its article, in full.
        axes: names of the grid's axes; a clip may have the first alone.
        suffixes: suffixes of the files that are taken from a folder. A file named by itself is
            tried whatever its suffix.
    """

    noun: str
    phrase: str
    axes: tuple[str, ...]
    suffixes: frozenset[str]


DICOM_SUFFIXES = frozenset((".dcm", ".dicom", ".ima"))
MEDIA = {
    "image": Medium(
        "picture",
        "a picture",
        ("rows", "cols"),
        # Phones write .heic, which Pillow does not read by itself. It is listed so that a
        # folder of such files gives errors instead of nothing.
        frozenset(
            (".apng", ".avif", ".avifs", ".bmp", ".bw", ".dib", ".gif", ".heic", ".heif", ".icb")
            + (".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg")
            + (".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".rgb")
            + (".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp")
        ),
    ),
    "video": Medium(
        "clip",
        "a video clip",
        ("frames", "rows", "cols"),
        frozenset(
            (".3g2", ".3gp", ".3gpp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264")
            + (".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg")
            + (".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf")
            + (".nut", ".obu", ".ogm", ".ogv", ".ogx", ".qt", ".rm", ".rmvb", ".tod", ".ts")
            + (".vob", ".webm", ".wmv", ".wtv", ".y4m")
        ),
    ),
    "volume": Medium("scan", "a scan", ("slices", "rows", "cols"), DICOM_SUFFIXES | {".nii"}),
}
"""All media that are captioned, by the names that models, recipes and JSON use."""


@dataclass(frozen=True)
class Grid:
    """The layout of the cells of an annotation grid on their source.

    Source units are pixels for a picture's rows and cols, seconds for frames, and millimetres
    along the scan's own axes for the slices, rows and cols of a volume.

    Attributes:
        axes: name of each axis: ("rows", "cols"), ("frames",), ("frames", "rows", "cols") or
            ("slices", "rows", "cols").
        shape: cells along each axis; their product is L.
        source_size: size of the upright source along each axis, in source units.
        extent: the interval of the source that each axis covers, in source units. It may
            be smaller than the source (a centre crop) or larger (padding).
        spans: for each real frame the (start, stop) in seconds that it represents; frames of
            the shape beyond them are padding. Empty without an axis of frames.
        shown: for each real frame the time in seconds at which it is shown.
        affine: 4×4, row by row, from (slices, rows, cols) in millimetres from the scan's
            corner to world millimetres, RAS+. Empty for other media.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    source_size: tuple[float, ...]
    extent: tuple[tuple[float, float], ...]
    spans: tuple[tuple[float, float], ...] = ()
    shown: tuple[float, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()

    @property
    def cells(self) -> int:
        """Number of cells, L."""
        return math.prod(self.shape)

    @property
    def real_cells(self) -> int:
        """Number of cells that are not padding; of a clip they come first in row-major order."""
        if self.axes[0] == "frames":
            return len(self.spans) * math.prod(self.shape[1:])
        if self.axes[0] == "slices":
            return math.prod(sum(self.real_along(axis)) for axis in range(3))
        return self.cells

    def real_along(self, axis: int) -> tuple[bool, ...]:
        """Return which cells along an axis of a scan have their centre in it.

        If none has (one thin slice in a thick cell), it is the one nearest to the scan's centre.
        """
        (start, stop), size, cells = self.extent[axis], self.source_size[axis], self.shape[axis]
        middles = [start + (i + 0.5) * (stop - start) / cells for i in range(cells)]
        inside = tuple(0 <= middle <= size for middle in middles)
        if any(inside):
            return inside
        nearest = min(range(cells), key=lambda i: abs(middles[i] - size / 2))
        return tuple(i == nearest for i in range(cells))


NO_PIXELS = np.empty((0, 0, 3), np.uint8)
"""Stands in for the pixels of a picture that are not kept."""


@dataclass(frozen=True)
class Media:
    """One upright picture, clip (`Clip`) or scan (`Scan`), ready for preprocessing.

    Attributes:
        medium: "image", "video" or "volume".
        pixels: (height, width, 3) uint8, RGB, upright; of a clip (F, height, width, 3); of a
            scan (slices, rows, cols) float32.
        name: the path or name that the user gave.
        digest: SHA-256 of the file's bytes, or of the pixels where there was no file.
        notes: the reader's assumptions, such as "first of 12 frames".
        picture: the upright RGB picture as Pillow decoded it, instead of `pixels`, which are then
            empty: a picture that is only fed to the network is not copied out of Pillow and back.
            None otherwise.
        warnings: those of the notes that a reader of the caption must know: what was cut off,
            damaged, or may be shown wrong. They become notices of the caption.
    """

    medium: str
    pixels: np.ndarray
    name: str
    digest: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=(), kw_only=True)
    picture: Image.Image | None = field(default=None, repr=False, kw_only=True)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a picture in pixels."""
        if self.picture is not None:
            return self.picture.height, self.picture.width
        return self.pixels.shape[0], self.pixels.shape[1]

    def without_pixels(self) -> Media:
        """Return a picture without its pixels; a clip or scan unchanged."""
        if self.medium != "image":
            return self
        return replace(self, pixels=NO_PIXELS, picture=None)


@dataclass(frozen=True)
class Clip(Media):
    """The chosen frames of a video clip, upright.

    Attributes:
        pixels: (F, height, width, 3) uint8, RGB. Large frames are kept smaller than they were.
        times: (F,) when each frame is shown, in seconds from the clip's first frame.
        spans: (F,) the (start, stop) in seconds that each frame represents.
        duration: duration of the whole clip in seconds.
        frame_size: (height, width) of the upright frames on square pixels, before they were
            scaled down.
    """

    times: tuple[float, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    duration: float = 0.0
    frame_size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Scan(Media):
    """A 3D scan in canonical orientation.

    Attributes:
        pixels: (slices, rows, cols) float32 in the scan's own units (Hounsfield units of a
            CT). Axis 0 runs from inferior to superior, axis 1 from posterior to anterior,
            axis 2 from left to right, as nearly as the scan's axes do (RAS+).
        affine: (4, 4) from (slice, row, col, 1) of `pixels` to world millimetres, RAS+.
        source_affine: (4, 4) from the file's own voxel (i, j, k, 1) to world millimetres, RAS+.
        source_shape: voxels along the file's own axes (i, j, k).
        modality: "CT", "MR" or "" if unknown.
        window: the (low, high) that are drawn black and white, in the scan's own units.
    """

    affine: np.ndarray = field(default_factory=lambda: np.eye(4), repr=False)
    source_affine: np.ndarray = field(default_factory=lambda: np.eye(4), repr=False)
    source_shape: tuple[int, ...] = ()
    modality: str = ""
    window: tuple[float, float] = (0.0, 1.0)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along (slices, rows, cols)."""
        slices, rows, cols = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slices), float(rows), float(cols)


def world_of(grid: Grid, point: tuple[float, ...]) -> tuple[float, float, float]:
    """Return a scan's point in world millimetres, RAS+.

    Args:
        grid: the grid of a scan.
        point: (slices, rows, cols) in millimetres from the scan's corner, as in `cell_bounds`.
    """
    x, y, z, _ = np.array(grid.affine) @ (*point, 1.0)
    return float(x), float(y), float(z)


def places_of(grid: Grid, affine: np.ndarray) -> np.ndarray:
    """Return the (4, 4) matrix from a file's voxels to millimetres along a scan's own axes.

    Args:
        grid: the grid of the scan, whose inverse affine is taken (see `world_of`).
        affine: (4, 4) from voxels, of any order and direction, to world millimetres, RAS+.
    """
    return np.linalg.inv(np.array(grid.affine)) @ affine


def cell_centre(grid: Grid, cell: int) -> tuple[float, ...]:
    """Return the middle of a cell along each axis, in source units; see `cell_bounds`."""
    return tuple((start + stop) / 2 for start, stop in cell_bounds(grid, cell))


def cell_bounds(grid: Grid, cell: int) -> tuple[tuple[float, float], ...]:
    """Return the interval (start, stop) that a cell covers along each axis, in source units.

    Args:
        grid: the grid.
        cell: flat index, row-major.

    Raises:
        IndexError: the grid has no such cell, or the cell is padding of a short clip.
    """
    last = grid.real_cells if grid.axes[0] == "frames" else grid.cells
    if not 0 <= cell < last:
        raise IndexError(f"cell {cell} is out of range for a grid of {last} cells")
    bounds: list[tuple[float, float]] = []
    for axis, at, count, (start, stop) in zip(
        grid.axes, np.unravel_index(cell, grid.shape), grid.shape, grid.extent, strict=True
    ):
        if axis == "frames":  # the spans of frames may differ in length
            bounds.append(grid.spans[int(at)])
            continue
        step = (stop - start) / count
        bounds.append((start + int(at) * step, start + (int(at) + 1) * step))
    return tuple(bounds)


def cell_at(grid: Grid, point: tuple[float, ...]) -> int | None:
    """Return the flat index of the cell that covers a point, or None outside the grid.

    Args:
        grid: the grid.
        point: one coordinate per axis, in source units: (y, x) for a picture.
    """
    place: list[int] = []
    for axis, value, count, (start, stop) in zip(
        grid.axes, point, grid.shape, grid.extent, strict=True
    ):
        if axis == "frames":
            inside = [i for i, (begin, end) in enumerate(grid.spans) if begin <= value < end]
            if not inside:
                return None
            place.append(inside[0])
            continue
        if not start <= value < stop:
            return None
        place.append(min(count - 1, int((value - start) / (stop - start) * count)))
    return int(np.ravel_multi_index(place, grid.shape))
