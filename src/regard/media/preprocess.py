"""From upright pixels to a network's input, by a specification that is stored as data."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from regard.errors import ConfigError
from regard.types import Media

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_CHOICES = ("chunks", "seconds", "all")
CT_WINDOWS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (60.0, 150.0),
}
"""Level and width in Hounsfield units: black is level - width / 2, white level + width / 2."""
_WINDOWS = (*CT_WINDOWS, "percentile", "zscore")
_MOST_VALUES = 2**28  # pixels or voxels of one input: 1 GiB of float32 for each channel
_RESIZES = ("squash", "crop", "pad")

Extent = tuple[tuple[float, float], tuple[float, float]]
"""((top, bottom), (left, right)) in source pixels."""


@dataclass(frozen=True)
class PreprocessingSpec:
    """How a picture becomes a square input.

    Attributes:
        size: side of the input in pixels.
        resize: "squash" (aspect ratio lost), "crop" (short side, then centre crop) or "pad"
            (long side, then padded with the mean colour).
        interpolation: "bilinear" or "bicubic", both with antialiasing.
        mean: subtracted from red, green, blue on the 0-255 scale.
        std: divided by, on the same scale.
        medium: that the encoder reads.
    """

    medium: ClassVar[str] = "image"
    size: int
    resize: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.resize not in _RESIZES or self.interpolation not in _FILTERS:
            raise ConfigError(
                f"preprocessing resize={self.resize!r}, interpolation={self.interpolation!r}; "
                f"wanted one of {', '.join(_RESIZES)} and one of {', '.join(_FILTERS)}."
            )
        _refuse_many("preprocessing of pictures", (self.size, self.size))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing mean={self.mean}, std={self.std}; wanted three numbers each, for "
                "red, green and blue, std above 0."
            )


@dataclass(frozen=True)
class ClipSpec:
    """How a clip becomes K square inputs; the fields are those of `config.VideoConfig`.

    Attributes:
        picture: how a frame becomes a square input.
        frames: K, frames that are read at most.
        choice: "chunks", "seconds" or "all".
        take: frame of each chunk: "middle" or "first".
        first_frames: only the first so many frames of a clip; 0: all.
        every: seconds between frames where choice is "seconds".
        medium: that the encoder reads.
    """

    medium: ClassVar[str] = "video"
    picture: PreprocessingSpec
    frames: int
    choice: str
    take: str
    first_frames: int
    every: float

    def __post_init__(self) -> None:
        if self.choice not in _CHOICES or self.take not in ("middle", "first"):
            raise ConfigError(
                f"preprocessing choice={self.choice!r:.100}, take={self.take!r:.100}; wanted one "
                f"of {', '.join(_CHOICES)} and one of middle, first."
            )
        _refuse_many("preprocessing of clips", (self.frames, self.picture.size, self.picture.size))
        if self.first_frames < 0 or self.every <= 0:
            raise ConfigError(
                f"preprocessing first_frames={self.first_frames}, every={self.every}; wanted 0 or "
                "more, and above 0."
            )


@dataclass(frozen=True)
class ScanSpec:
    """How a scan becomes an input of voxels; the fields are those of `config.VolumeConfig`.

    Attributes:
        shape: voxels of the input, (slices, rows, cols).
        spacing: millimetres between them; empty: the whole scan is squashed into the shape.
        window: name of the intensity window.
        medium: that the encoder reads.
    """

    medium: ClassVar[str] = "volume"
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    window: str

    def __post_init__(self) -> None:
        if (
            len(self.shape) != 3
            or len(self.spacing) not in (0, 3)
            or min(self.spacing, default=1) <= 0
        ):
            raise ConfigError(
                f"preprocessing shape={self.shape!r:.100}, spacing={self.spacing!r:.100}; wanted "
                "three numbers each, for slices, rows and cols, or no spacing."
            )
        _refuse_many("preprocessing of scans", self.shape)
        if self.window not in _WINDOWS:
            raise ConfigError(
                f"preprocessing window={self.window!r:.100}; wanted one of {', '.join(_WINDOWS)}."
            )


def _refuse_many(what: str, sizes: tuple[int, ...]) -> None:
    if min(sizes) < 1 or math.prod(sizes) > _MOST_VALUES:
        raise ConfigError(
            f"{what}: sizes are {sizes!r:.200}; wanted at least 1 each, and a product of at most "
            f"{_MOST_VALUES}."
        )


Spec = PreprocessingSpec | ClipSpec | ScanSpec
"""Stored in every checkpoint; its type says which medium the encoder reads."""
SPECS: dict[str, type[Spec]] = {s.medium: s for s in (PreprocessingSpec, ClipSpec, ScanSpec)}
"""The specification of each medium."""


def spec_digest(spec: Spec) -> str:
    """Return a SHA-256 of the specification."""
    return hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()


def covered_extent(size: tuple[int, int], spec: PreprocessingSpec) -> Extent:
    """Return which part of the source the input covers.

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
    # From the whole pixels that are really filled, so that a cell lies where it was seen even
    # on a strip of 10000 by 1, which cannot be thinner than one pixel of the input.
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
    """Return (3, size, size), normalised, of what `_square` gave."""
    # Channels first, then one number at a time for all of a channel: as ((square - mean) / std),
    # in a third of the time.
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
