"""From any source to what a network reads: one way in for pictures, clips and scans.

The type of the encoder's specification says which medium it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard.config import VideoConfig
from regard.config.io import from_dict
from regard.errors import CheckpointError, ConfigError, MediaError, UnknownName
from regard.media.geometry import clip_grid, image_grid, real_mask, scan_grid
from regard.media.image import read_image
from regard.media.preprocess import (
    SPECS,
    ClipSpec,
    PreprocessingSpec,
    ScanSpec,
    Spec,
    preprocess,
    preprocess_pixels,
)
from regard.types import MEDIA, Clip, Grid, Media, Scan


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
    if isinstance(source, Media):
        if source.medium != spec.medium:
            raise MediaError(
                f"{source.name} was read as {MEDIA[source.medium].phrase}, and this model reads "
                f"{MEDIA[spec.medium].noun}s. Use a model for {MEDIA[source.medium].noun}s."
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


class Reader:
    """Reads media and prepares them for one encoder.

    Attributes:
        name: the name in the encoder table.
        level: the feature map that is read.
        annotation_dim: D, features per annotation vector.
        grid_axes: names of the grid's axes; see `Grid`.
        grid_shape: cells along each axis; L is their product.
        spec: the preprocessing that its pixels need; stored in every checkpoint.
        input_shape: of one item's pixels: (3, S, S) of a picture, (K, 3, S, S) of a clip,
            (1, slices, rows, cols) of a scan.
        pictures_per_item: how many pictures' worth of work an item is: a clip's frames.
        frames_alone: whether each vector of a clip depends on its own frame alone.
    """

    name: str
    level: str
    annotation_dim: int
    grid_axes: tuple[str, ...]
    grid_shape: tuple[int, ...]
    spec: Any  # a Spec; children say which
    input_shape: tuple[int, ...]
    pictures_per_item: int = 1
    frames_alone: bool = False

    @property
    def medium(self) -> str:
        """What it reads: "image", "video" or "volume"."""
        return self.spec.medium

    def read(
        self,
        source: Any,
        *,
        name: str | None = None,
        report: Callable[[int, int], None] | None = None,
        shown: bool = True,
    ) -> Media:
        """Read a source as the encoder needs it; see `regard.media.read_media`."""
        return read_media(source, self.spec, name=name, report=report, shown=shown)

    def prepare(self, media: Media) -> Input:
        """Return the pixels, mask and grid of what `read` gave."""
        return prepare(media, self.spec, self.grid_shape)

    def of_clips(self, config: VideoConfig) -> StoredReader:
        """Return the reader of clips whose frames this reader of pictures prepares."""
        spatial = config.grid == "spatio_temporal"
        return StoredReader(
            clip_spec(self.spec, config),
            name=self.name,
            level=self.level,
            annotation_dim=self.annotation_dim,
            grid_shape=(config.frames, *(self.grid_shape if spatial else ())),
            pictures_per_item=config.frames,
            frames_alone=True,
        )


class StoredReader(Reader):
    """A reader made from what a checkpoint says of its encoder."""

    def __init__(
        self,
        spec: Spec,
        *,
        name: str,
        level: str,
        annotation_dim: int,
        grid_shape: tuple[int, ...],
        pictures_per_item: int = 1,
        frames_alone: bool = False,
    ) -> None:
        """Take the values as they are; see `Reader`."""
        self.spec, self.name, self.level = spec, name, level
        self.annotation_dim, self.grid_shape = annotation_dim, grid_shape
        self.grid_axes = MEDIA[self.medium].axes[: len(grid_shape)]
        self.input_shape = _input_shape(spec)
        self.pictures_per_item, self.frames_alone = pictures_per_item, frames_alone

    @classmethod
    def of(cls, config: dict[str, Any], *, pictures_per_item: int = 1) -> StoredReader:
        """Read a checkpoint's `config.json`.

        Raises:
            CheckpointError: its preprocessing is no specification that is known.
        """
        encoder, asked = config["encoder"], config["recipe"].get("encoder", {})
        try:
            spec = from_dict(SPECS[config["medium"]], config["preprocessing"], "preprocessing")
        except (ConfigError, UnknownName, KeyError, TypeError) as error:
            raise CheckpointError(
                f"config.json names no preprocessing that is known: {error}. It was changed by "
                "hand, or made by another version."
            ) from error
        return cls(
            spec,
            name=encoder["name"],
            level=asked.get("level", ""),
            annotation_dim=encoder["annotation_dim"],
            grid_shape=tuple(encoder["grid_shape"]),
            pictures_per_item=pictures_per_item,
            frames_alone=isinstance(spec, ClipSpec)
            and asked.get("video", {}).get("motion", "none") == "none",
        )


def clip_spec(picture: PreprocessingSpec, config: VideoConfig) -> ClipSpec:
    """Return how a clip is read whose frames are prepared as pictures are."""
    return ClipSpec(
        picture=picture,
        frames=config.frames,
        choice=config.choice,
        take=config.take,
        first_frames=config.first_frames,
        every=config.every,
    )


def _input_shape(spec: Spec) -> tuple[int, ...]:
    if isinstance(spec, ClipSpec):
        return spec.frames, 3, spec.picture.size, spec.picture.size
    if isinstance(spec, ScanSpec):
        return 1, *spec.shape
    return 3, spec.size, spec.size
