"""Reader of media for an encoder: from any source to the network's input and its grid.

A `Reader` describes an encoder without its weights. Captioning with exported graphs needs only the
reader, and no torch. The type of its specification determines the medium.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard.config import VideoConfig
from regard.config.io import from_dict
from regard.errors import CheckpointError, ConfigError, MediaError, UnknownName
from regard.media.image import read_image
from regard.media.preprocess import (
    SPECS,
    ClipSpec,
    Extent,
    PreprocessingSpec,
    ScanSpec,
    Spec,
    covered_extent,
    preprocess,
    preprocess_pixels,
    resample,
)
from regard.types import MEDIA, Clip, Grid, Media, Scan


@dataclass(frozen=True)
class Input:
    """The network's input for one item, and the grid of its cells.

    Attributes:
        pixels: (3, S, S) of a picture, (K, 3, S, S) of a clip, (1, slices, rows, cols) of a
            scan; float32. Frames that a short clip lacks are 0.
        mask: (L,) bool, True = real cell.
        grid: grid of the L cells.
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
    """Read a picture, clip or scan by a specification.

    Args:
        source: anything that `read_image`, `read_clip` or `read_scan` reads, or their result.
        spec: the encoder's.
        name: used in messages and results.
        report: called while a clip is decoded, with the frames done and the frames in all.
        shown: see `read_image`.

    Raises:
        MediaError: it cannot be read, or was read as another medium.
        MissingExtra: clips need PyAV, scans nibabel and pydicom.
    """
    if isinstance(source, Media):
        if source.medium != spec.medium:
            noun = MEDIA[source.medium].noun
            raise MediaError(
                f"{source.name} was read as a {noun}, but this model reads "
                f"{MEDIA[spec.medium].noun}s. Use a model for {noun}s."
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
        pixels = np.zeros(_input_shape(spec), np.float32)
        for at, frame in enumerate(media.pixels):
            pixels[at] = preprocess_pixels(frame, spec.picture)
        grid = clip_grid(media, spec.picture, grid_shape)
    elif isinstance(spec, ScanSpec):
        assert isinstance(media, Scan)
        pixels, extent = resample(media, spec)
        grid = scan_grid(media, extent, grid_shape)
    else:
        pixels, grid = preprocess(media, spec), image_grid(media.size, spec, grid_shape)
    return Input(pixels, real_mask(grid), grid)


def image_grid(size: tuple[int, int], spec: PreprocessingSpec, shape: tuple[int, ...]) -> Grid:
    """Return the grid of an encoder's cells on a picture.

    Args:
        size: (height, width) of the upright picture in pixels.
        spec: preprocessing of the picture.
        shape: (rows, cols) of the encoder's grid.

    Returns:
        A grid with the axes ("rows", "cols"); its extent is smaller than the picture after a
        crop, larger after padding.
    """
    return Grid(MEDIA["image"].axes, shape, size, covered_extent(size, spec))


def clip_grid(clip: Clip, spec: PreprocessingSpec, shape: tuple[int, ...]) -> Grid:
    """Return the grid of an encoder's cells on a clip, in seconds and in pixels.

    Args:
        clip: with F frames, F at most shape[0].
        spec: how each frame is preprocessed.
        shape: (frames,) or (frames, rows, cols) of the encoder's grid.
    """
    first = (clip.spans[0][0], clip.spans[-1][1])
    axes, size, extent = ("frames",), (clip.duration,), (first,)
    if len(shape) == 3:
        axes = ("frames", "rows", "cols")
        size = (clip.duration, *clip.frame_size)
        extent = (first, *covered_extent(clip.frame_size, spec))
    return Grid(axes, shape, size, extent, clip.spans, clip.times)


def scan_grid(scan: Scan, extent: Extent, shape: tuple[int, ...]) -> Grid:
    """Return the grid of an encoder's cells in a scan, in millimetres along the scan's own axes.

    Args:
        scan: the scan.
        extent: the part of it that the network's input covers, in millimetres from the scan's
            corner (the outer corner of its first voxel); negative where it was padded.
        shape: (slices, rows, cols) of the encoder's grid.
    """
    spacing = np.array(scan.spacing)
    affine = np.array(scan.affine, np.float64)
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, 0.5)  # voxel centres to voxel corners
    affine[:3, :3] /= spacing
    size = tuple(float(n * mm) for n, mm in zip(scan.pixels.shape, spacing, strict=True))
    rows = tuple(tuple(map(float, row)) for row in affine)
    return Grid(MEDIA["volume"].axes, shape, size, extent, affine=rows)


def real_mask(grid: Grid) -> np.ndarray:
    """Return (L,) bool: True for cells on the source, False for padding.

    The real cells of a clip are those of real frames; of a scan, those whose middle lies in it
    (see `Grid.real_along`). All cells of a picture are real: its models learned from the square
    that it is padded to.
    """
    if grid.axes[0] != "slices":
        return np.arange(grid.cells) < grid.real_cells
    mask = np.ones(grid.shape, bool)
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        mask &= np.expand_dims(np.array(grid.real_along(axis)), others)
    return mask.ravel()


class Reader:
    """Reads media and prepares them for one encoder.

    Attributes:
        name: the name in the encoder table.
        level: the feature map that is read.
        annotation_dim: D, features per annotation vector.
        grid_axes: names of the grid's axes; see `Grid`.
        grid_shape: cells along each axis; L is their product.
        spec: the preprocessing that its pixels need; stored in every checkpoint.
        input_shape: shape of one item's pixels: (3, S, S) of a picture, (K, 3, S, S) of a clip,
            (1, slices, rows, cols) of a scan.
        pictures_per_item: the work for one item, in pictures; for a clip, the number of frames.
        frames_alone: whether each vector of a clip depends on its own frame alone.
    """

    name: str
    level: str
    annotation_dim: int
    grid_axes: tuple[str, ...]
    grid_shape: tuple[int, ...]
    spec: Any  # a Spec; subclasses narrow it
    input_shape: tuple[int, ...]
    pictures_per_item: int = 1
    frames_alone: bool = False

    @property
    def medium(self) -> str:
        """The medium that it reads: "image", "video" or "volume"."""
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
        """Return the pixels, mask and grid of media that `read` returned."""
        return prepare(media, self.spec, self.grid_shape)

    def of_clips(self, config: VideoConfig) -> StoredReader:
        """Return the reader of clips whose frames this reader of pictures prepares."""
        spatial = config.grid == "spatio_temporal"
        return StoredReader(
            spec=clip_spec(self.spec, config),
            name=self.name,
            level=self.level,
            annotation_dim=self.annotation_dim,
            grid_shape=(config.frames, *(self.grid_shape if spatial else ())),
            pictures_per_item=config.frames,
            frames_alone=True,
        )


@dataclass(eq=False, kw_only=True)
class StoredReader(Reader):
    """The reader of an encoder that a checkpoint describes; see `Reader`."""

    spec: Spec
    name: str
    level: str
    annotation_dim: int
    grid_shape: tuple[int, ...]
    pictures_per_item: int = 1
    frames_alone: bool = False

    def __post_init__(self) -> None:
        self.grid_axes = MEDIA[self.medium].axes[: len(self.grid_shape)]
        self.input_shape = _input_shape(self.spec)

    @classmethod
    def of(cls, config: dict[str, Any], *, pictures_per_item: int = 1) -> StoredReader:
        """Return the reader that a checkpoint's `config.json` describes.

        Raises:
            CheckpointError: its preprocessing is not a known specification.
        """
        encoder, asked = config["encoder"], config["recipe"].get("encoder", {})
        try:
            spec = from_dict(SPECS[config["medium"]], config["preprocessing"], "preprocessing")
        except (ConfigError, UnknownName, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the preprocessing in config.json is unknown: {error}. The file was edited, or "
                "written by another version."
            ) from error
        return cls(
            spec=spec,
            name=encoder["name"],
            level=asked.get("level", ""),
            annotation_dim=encoder["annotation_dim"],
            grid_shape=tuple(encoder["grid_shape"]),
            pictures_per_item=pictures_per_item,
            frames_alone=isinstance(spec, ClipSpec)
            and asked.get("video", {}).get("motion", "none") == "none",
        )


def clip_spec(picture: PreprocessingSpec, config: VideoConfig) -> ClipSpec:
    """Return the specification of a clip whose frames are prepared as pictures are."""
    return ClipSpec(
        picture, config.frames, config.choice, config.take, config.first_frames, config.every
    )


def _input_shape(spec: Spec) -> tuple[int, ...]:
    if isinstance(spec, ClipSpec):
        return spec.frames, 3, spec.picture.size, spec.picture.size
    if isinstance(spec, ScanSpec):
        return 1, *spec.shape
    return 3, spec.size, spec.size
