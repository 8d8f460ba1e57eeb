"""What is known of an encoder without its weights: how its input is read, and the grid it makes.

Everything but the numbers: captioning by exported graphs needs no more, and no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regard.config import VideoConfig
from regard.config.io import from_dict
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.media.prepare import Input, medium_of_spec, prepare, read_media
from regard.media.preprocess import ClipSpec, PreprocessingSpec, ScanSpec, Spec
from regard.types import Media

_SPECS: dict[str, type[Spec]] = {
    "image": PreprocessingSpec,
    "video": ClipSpec,
    "volume": ScanSpec,
}
_AXES = {
    "image": ("rows", "cols"),
    "video": ("frames", "rows", "cols"),  # the first alone on a temporal grid
    "volume": ("slices", "rows", "cols"),
}


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
        return medium_of_spec(self.spec)

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
        self.grid_axes = _AXES[self.medium][: len(grid_shape)]
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
            spec = from_dict(_SPECS[config["medium"]], config["preprocessing"], "preprocessing")
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
