"""Preprocessing of upright pixels and voxels into network inputs, by a stored specification."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

import numpy as np
from PIL import Image

from regard.config.io import Length, OneOf, Range, Section
from regard.errors import ConfigError
from regard.types import Media, Scan

CT_WINDOWS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (60.0, 150.0),
}
"""Level and width in Hounsfield units: black is level - width / 2, white level + width / 2."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_MOST_VALUES = 2**28  # pixels or voxels of one input: 1 GiB of float32 for each channel
_PERCENTILES = (1.0, 99.0)
_SAMPLED = 2**22  # voxels that are enough to estimate a percentile
_DRAWN_DEVIATIONS = 2.0  # standard deviations from black to the mean, and from there to white

Extent = tuple[tuple[float, float], ...]
"""(start, stop) along each axis, in source units: ((top, bottom), (left, right)) of a picture."""


@dataclass(frozen=True)
class PreprocessingSpec(Section, section="preprocessing"):
    """How a picture becomes a square input.

    Attributes:
        size: side of the input in pixels.
        resize: "squash" (the aspect ratio is lost), "crop" (short side, then centre crop) or "pad"
            (long side, then padded with the mean colour).
        interpolation: "bilinear" or "bicubic", both with antialiasing.
        mean: subtracted from red, green and blue on the 0-255 scale.
        std: the divisor, on the same scale.
        medium: the medium that the encoder reads.
    """

    medium: ClassVar[str] = "image"
    size: int
    resize: Annotated[str, OneOf("squash", "crop", "pad")]
    interpolation: Annotated[str, OneOf(*_FILTERS)]
    mean: Annotated[tuple[float, float, float], Length(3)]
    std: Annotated[tuple[float, float, float], Length(3), Range(0, exclusive=True)]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sizes("preprocessing of pictures", (self.size, self.size))


@dataclass(frozen=True)
class ClipSpec(Section, section="preprocessing"):
    """How a clip becomes K square inputs; the fields are those of `config.VideoConfig`.

    Attributes:
        picture: preprocessing of a frame.
        frames: K, the largest number of frames that are read.
        choice: "chunks", "seconds" or "all".
        take: frame of each chunk: "middle" or "first".
        first_frames: number of frames at the start of a clip that are used; 0: all.
        every: seconds between frames if choice is "seconds".
        medium: the medium that the encoder reads.
    """

    medium: ClassVar[str] = "video"
    picture: PreprocessingSpec
    frames: int
    choice: Annotated[str, OneOf("chunks", "seconds", "all")]
    take: Annotated[str, OneOf("middle", "first")]
    first_frames: Annotated[int, Range(0)]
    every: Annotated[float, Range(0, exclusive=True)]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sizes("preprocessing of clips", (self.frames, self.picture.size, self.picture.size))


@dataclass(frozen=True)
class ScanSpec(Section, section="preprocessing"):
    """How a scan becomes an input of voxels; the fields are those of `config.VolumeConfig`.

    Attributes:
        shape: voxels of the input, (slices, rows, cols).
        spacing: millimetres between voxels; empty: the whole scan is squashed into the shape.
        window: name of the intensity window.
        medium: the medium that the encoder reads.
    """

    medium: ClassVar[str] = "volume"
    shape: Annotated[tuple[int, ...], Length(3)]
    spacing: Annotated[tuple[float, ...], Length(0, 3), Range(0, exclusive=True)]
    window: Annotated[str, OneOf(*CT_WINDOWS, "percentile", "zscore")]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sizes("preprocessing of scans", self.shape)


def _check_sizes(what: str, sizes: tuple[int, ...]) -> None:
    if min(sizes) < 1 or math.prod(sizes) > _MOST_VALUES:
        raise ConfigError(
            f"{what}: sizes are {sizes!r:.200}; expected at least 1 each, and a product of at most "
            f"{_MOST_VALUES}."
        )


Spec = PreprocessingSpec | ClipSpec | ScanSpec
"""Stored in every checkpoint; its type determines the encoder's medium."""
SPECS: dict[str, type[Spec]] = {s.medium: s for s in (PreprocessingSpec, ClipSpec, ScanSpec)}
"""The specification of each medium."""


def spec_digest(spec: Spec) -> str:
    """Return a SHA-256 of the specification."""
    return hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()


# Pictures


def covered_extent(size: tuple[int, int], spec: PreprocessingSpec) -> Extent:
    """Return the part of the source that the input covers.

    Args:
        size: (height, width) of the source in pixels.
        spec: how it is resized.

    Returns:
        ((top, bottom), (left, right)) in source pixels: the whole source for "squash", its
        centred square for "crop", more than the source for "pad".
    """
    height, width = size
    if spec.resize == "squash":
        return (0.0, float(height)), (0.0, float(width))
    if spec.resize == "crop":
        side = min(size)
        top, left = (height - side) / 2, (width - side) / 2
        return (top, top + side), (left, left + side)
    return _padded_extent(height, spec, max(size)), _padded_extent(width, spec, max(size))


def _padded_side(side: int, spec: PreprocessingSpec, longest: int) -> tuple[int, int]:
    """Return (first input pixel, input pixels) that a side of a padded picture fills."""
    filled = max(1, round(side * spec.size / longest))
    return (spec.size - filled) // 2, filled


def _padded_extent(side: int, spec: PreprocessingSpec, longest: int) -> tuple[float, float]:
    # It is computed from the whole pixels that are filled, so that a cell lies where the network
    # saw it, even on a strip of 10000 by 1, which fills at least one row of the input.
    first, filled = _padded_side(side, spec, longest)
    step = side / filled
    return -first * step, (spec.size - first) * step


def preprocess(media: Media, spec: PreprocessingSpec) -> np.ndarray:
    """Return the network's input, (3, size, size) float32, (x - mean) / std.

    Args:
        media: an upright RGB picture.
        spec: the encoder's specification.
    """
    picture = Image.fromarray(media.pixels) if media.picture is None else media.picture
    return _planes(_square(picture, media.size, spec), spec)


def preprocess_pixels(pixels: np.ndarray, spec: PreprocessingSpec) -> np.ndarray:
    """Return the network's input for (height, width, 3) uint8 pixels; see `preprocess`."""
    size = pixels.shape[0], pixels.shape[1]
    return _planes(_square(Image.fromarray(pixels), size, spec), spec)


def _planes(square: np.ndarray, spec: PreprocessingSpec) -> np.ndarray:
    """Return (3, size, size) float32, normalised, from the result of `_square`."""
    # Channels first, then one number at a time for a whole channel: this takes a third of the
    # time of (square - mean) / std.
    planes = np.ascontiguousarray(square.transpose(2, 0, 1), np.float32)
    planes -= np.asarray(spec.mean, np.float32)[:, None, None]
    planes /= np.asarray(spec.std, np.float32)[:, None, None]
    return planes


def _square(picture: Image.Image, size: tuple[int, int], spec: PreprocessingSpec) -> np.ndarray:
    """Return the picture as (size, size, 3) on the 0-255 scale, uint8, or padded float32."""
    target = (spec.size, spec.size)
    resample = _FILTERS[spec.interpolation]
    if spec.resize != "pad":
        (top, bottom), (left, right) = covered_extent(size, spec)
        box = (left, top, right, bottom)
        return np.asarray(picture.resize(target, resample, box=box))
    (row, height), (col, width) = (_padded_side(side, spec, max(size)) for side in size)
    square = np.empty((*target, 3), np.float32)
    square[:] = np.asarray(spec.mean, np.float32)
    resized = np.asarray(picture.resize((width, height), resample))
    square[row : row + height, col : col + width] = resized
    return square


# Scans


def resample(scan: Scan, spec: ScanSpec) -> tuple[np.ndarray, Extent]:
    """Return the network's input and the part of the scan that it covers.

    Voxels are interpolated linearly along each of the scan's own axes. Along an axis that gets
    fewer voxels, each is a mean over its neighbourhood, weighted by a triangle (no aliasing).
    Nothing is rounded to whole voxels: the middle of the input is exactly the scan's middle.

    Args:
        scan: in canonical orientation.
        spec: the encoder's. Its window is used, not the scan's, which may have been read for
            another model.

    Returns:
        (1, slices, rows, cols) float32: 0..1 from black to white, or z-scores; 0 outside the
        scan. And the extent along each axis in millimetres from the scan's corner, the outer
        corner of its first voxel: negative where it was padded.
    """
    sizes = [n * mm for n, mm in zip(scan.pixels.shape, scan.spacing, strict=True)]
    steps = spec.spacing or [s / n for s, n in zip(sizes, spec.shape, strict=True)]
    starts = [(size - n * step) / 2 for size, n, step in zip(sizes, spec.shape, steps, strict=True)]
    values = scan.pixels
    ratios = [n / m for n, m in zip(spec.shape, scan.pixels.shape, strict=True)]
    outside = np.zeros(spec.shape, bool)
    for axis in np.argsort(ratios):  # first the axis that loses most: the others have less to do
        spacing = scan.spacing[axis]
        centres = starts[axis] + (np.arange(spec.shape[axis]) + 0.5) * steps[axis]
        values = _interpolate(values, int(axis), centres / spacing - 0.5, steps[axis] / spacing)
        # A voxel that the scan covers in part is filled: a thin slice must not be lost.
        half = steps[axis] / 2
        beyond = (centres + half <= 0) | (centres - half >= sizes[axis])
        outside |= np.expand_dims(beyond, [other for other in range(3) if other != axis])
    values = apply_window(values, intensity_window(scan.pixels, spec.window), spec.window)
    values[outside] = 0.0
    extent = tuple(
        (float(start), float(start + n * step))
        for start, n, step in zip(starts, spec.shape, steps, strict=True)
    )
    return np.ascontiguousarray(values[None], np.float32), extent


def _interpolate(values: np.ndarray, axis: int, places: np.ndarray, reach: float) -> np.ndarray:
    """Interpolate one axis.

    Args:
        values: (slices, rows, cols).
        axis: the axis.
        places: positions on the axis in voxels; 0 is the middle of the first voxel.
        reach: input voxels per output voxel; above 1, so many are averaged.
    """
    count = values.shape[axis]
    reach = max(1.0, reach)
    inside = places.clip(0, count - 1)  # the outer half of the outermost voxels, and beyond
    distance = np.abs(inside[:, None] - np.arange(count))
    weights = (1 - distance / reach).clip(0)
    weights /= weights.sum(1, keepdims=True)
    used = np.flatnonzero(weights.any(0))
    first, last = used[0], used[-1] + 1
    part = np.take(values, range(first, last), axis)
    found = np.tensordot(weights[:, first:last].astype(np.float32), part, (1, axis))
    return np.moveaxis(found, 0, axis)


def intensity_window(pixels: np.ndarray, preset: str) -> tuple[float, float]:
    """Return the values that become black and white.

    Args:
        pixels: finite voxels in the scan's own units.
        preset: one of `CT_WINDOWS`; "percentile" (1st to 99th of the foreground); or "zscore" (the
            foreground's mean, two standard deviations to each side).

    Returns:
        (low, high), high above low even if all voxels are equal.
    """
    if preset in CT_WINDOWS:
        level, width = CT_WINDOWS[preset]
        return level - width / 2, level + width / 2
    every = max(1, pixels.size // _SAMPLED)
    values = pixels.reshape(-1)[::every].astype(np.float64)
    foreground = values[values > values.min()]
    # The foreground of a mask has one value and so no width; that of the whole scan has one.
    for part in (foreground, values, pixels.reshape(-1).astype(np.float64)):
        low, high = _spread(part, preset) if part.size else (0.0, 0.0)
        if high > low:
            return low, high
    low, high = float(pixels.min()), float(pixels.max())  # almost all voxels are equal
    return (low, high) if high > low else (low, low + max(1.0, abs(low)))


def apply_window(pixels: np.ndarray, window: tuple[float, float], preset: str) -> np.ndarray:
    """Return the network's values: 0..1 from black to white, or the z-score for "zscore"."""
    low, high = window
    shades = (pixels - np.float32(low)) / np.float32(high - low)
    if preset == "zscore":
        return (shades - np.float32(0.5)) * np.float32(2 * _DRAWN_DEVIATIONS)
    return shades.clip(0.0, 1.0)


def _spread(values: np.ndarray, preset: str) -> tuple[float, float]:
    if preset == "zscore":
        reach = _DRAWN_DEVIATIONS * float(values.std())
        mean = float(values.mean())
        return mean - reach, mean + reach
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)
