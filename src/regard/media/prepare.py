"""From any source to what a network reads: one way in for pictures, clips and scans.

The type of the encoder's specification says which medium it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard.errors import MediaError
from regard.media.geometry import clip_grid, image_grid, real_mask, scan_grid
from regard.media.image import read_image
from regard.media.preprocess import ClipSpec, ScanSpec, Spec, preprocess, preprocess_pixels
from regard.types import Clip, Grid, Media, Scan

_NAMES = {"image": "a picture", "video": "a video clip", "volume": "a scan"}


@dataclass(frozen=True)
class Input:
    """What a network reads of one item, and where its cells lie.

    Attributes:
        pixels: (3, S, S) of a picture, (K, 3, S, S) of a clip, (1, slices, rows, cols) of a
            scan; float32. Frames that a short clip lacks are 0.
        mask: (L,) bool, True = real cell.
        grid: of the L cells.
    """

    pixels: np.ndarray
    mask: np.ndarray
    grid: Grid


def medium_of_spec(spec: Spec) -> str:
    """Return the medium that a specification is for: "image", "video" or "volume"."""
    if isinstance(spec, ClipSpec):
        return "video"
    return "volume" if isinstance(spec, ScanSpec) else "image"


def read_media(
    source: Any,
    spec: Spec,
    *,
    name: str | None = None,
    report: Callable[[int, int], None] | None = None,
    shown: bool = True,
) -> Media:
    """Read a picture, clip or scan, whichever the specification is for.

    Args:
        source: what `read_image`, `read_clip` or `read_scan` reads; or what they have read.
        spec: the encoder's.
        name: what messages and results call it.
        report: is told, while a clip is decoded, how many of how many frames are.
        shown: see `read_image`.

    Raises:
        MediaError: it cannot be read, or was read as another medium.
        MissingExtra: clips need PyAV, scans nibabel and pydicom.
    """
    wanted = medium_of_spec(spec)
    if isinstance(source, Media):
        if source.medium != wanted:
            raise MediaError(
                f"{source.name} was read as {_NAMES[source.medium]}, and this model reads "
                f"{wanted}s: {_NAMES[wanted]} was wanted. Use a model for {source.medium}s."
            )
        return source
    if isinstance(spec, ClipSpec):
        from regard.media.video.video_reader import read_clip

        return read_clip(source, spec, name=name, report=report)
    if isinstance(spec, ScanSpec):
        from regard.media.scan.scan_reader import read_scan

        return read_scan(source, spec, name=name)
    return read_image(source, name=name, shown=shown)


def prepare(media: Media, spec: Spec, grid_shape: tuple[int, ...]) -> Input:
    """Return the network's input for a medium that was read with the same specification.

    Args:
        media: a picture, clip or scan.
        spec: the encoder's.
        grid_shape: the encoder's.
    """
    if isinstance(spec, ClipSpec):
        assert isinstance(media, Clip)
        return _clip(media, spec, grid_shape)
    if isinstance(spec, ScanSpec):
        from regard.media.scan.scan_reader import resample

        assert isinstance(media, Scan)
        voxels, extent = resample(media, spec)
        grid = scan_grid(media, extent, grid_shape)
        return Input(voxels, real_mask(grid), grid)
    grid = image_grid(media.size, spec, grid_shape)
    return Input(preprocess(media, spec), real_mask(grid), grid)


def _clip(clip: Clip, spec: ClipSpec, grid_shape: tuple[int, ...]) -> Input:
    size = spec.picture.size
    pixels = np.zeros((spec.frames, 3, size, size), np.float32)
    for at, frame in enumerate(clip.pixels):
        pixels[at] = preprocess_pixels(frame, spec.picture)
    grid = clip_grid(clip, spec.picture, grid_shape)
    return Input(pixels, real_mask(grid), grid)
