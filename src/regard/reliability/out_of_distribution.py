"""Out-of-distribution detection: is an input like those that a model was trained on?

If it is not, its caption carries a notice. Five things are compared with the training items:

- **size and spacing**: a scan's millimetres, a clip's seconds; outside their range by a tenth;
- **modality**, where a file names one that no training file named;
- **layout**: the mean of the input's values in 4 × 4 (× 4) parts: coarsely, what lies where;
- **texture**: how much values differ from their neighbours and from those two further on;
- **features**: the mean annotation vector, which is what the encoder makes of it.

Layout, texture and features are vectors, compared by their Mahalanobis distance (divided by the
root of their length) from the training items. Its limit is the distance that 99 % of training items
kept out of the estimate stay below, times a margin. This finds inputs of another kind, not every
error: a scan that looks like the others but shows a new finding passes. No input is rejected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regard.errors import CheckpointError
from regard.media import Input
from regard.types import MEDIA, Clip, Media, Scan

_ROOM = 0.1  # beyond the range of the training items, as a share of its ends
_MARGIN, _QUANTILE = 1.15, 0.99  # the limit: so much above what so many new items stay below
_FOLDS = 5  # each kept out of the estimate once, to see how far a new item lies
_SHRINKAGE = 0.02  # of a covariance towards equal variances, since training items are few
_PARTS = 4  # of an axis of the layout, at most
_DIGITS = 5
_SAYS = {
    "layout": "what is bright and dark lies elsewhere",
    "texture": "neighbouring values differ more or less than theirs",
    "features": "the encoder sees other things in it",
}


@dataclass(frozen=True)
class ItemStats:
    """The statistics of one item that are compared.

    Attributes:
        quantities: numbers with a range, by a name with its unit.
        modality: modality in the file; "" if unknown.
        vectors: "layout", "texture" and "features".
    """

    quantities: Mapping[str, float]
    modality: str
    vectors: Mapping[str, np.ndarray]

    @classmethod
    def measure(cls, media: Media, prepared: Input, annotations: np.ndarray) -> ItemStats:
        """Measure an item.

        Args:
            media: as it was read.
            prepared: as the encoder reads it.
            annotations: (L, D) what the encoder makes of it.
        """
        quantities: dict[str, float] = {}
        if isinstance(media, Scan):
            sides = [n * mm for n, mm in zip(media.pixels.shape, media.spacing, strict=True)]
            for axis, side, mm in zip(MEDIA["volume"].axes, sides, media.spacing, strict=True):
                quantities[f"mm along {axis}"] = side
                quantities[f"mm between {axis}"] = mm
        elif isinstance(media, Clip):
            quantities["seconds"] = media.duration
        vectors = {"features": annotations[prepared.mask].mean(0)}
        if media.medium != "video":  # the frames of a clip are read one by one
            vectors["layout"] = _layout(prepared)
            vectors["texture"] = _texture(prepared.pixels)
        modality = media.modality if isinstance(media, Scan) else ""
        return cls(quantities, modality, vectors)


def _layout(prepared: Input) -> np.ndarray:
    """Return the mean values of at most `_PARTS` parts along each axis."""
    values = prepared.pixels.mean(0)
    for axis, voxels in enumerate(values.shape):
        parts = np.array_split(values, min(_PARTS, voxels), axis)
        values = np.stack([part.mean(axis) for part in parts], axis)
    return values.reshape(-1)


def _texture(pixels: np.ndarray) -> np.ndarray:
    """Return spread, mean, and differences of values one and two steps apart along each axis."""
    inside = pixels[pixels != 0]  # 0 may lie outside the source
    spread = float(inside.std()) + 1e-6 if inside.size else 1e-6
    found = [spread, float(inside.mean()) if inside.size else 0.0]
    for axis in range(1, pixels.ndim):
        for by in (1, 2):
            near, far = np.split(pixels, [pixels.shape[axis] - by], axis)[0], pixels
            far = np.split(far, [by], axis)[1]
            both = (near != 0) & (far != 0)
            step = float(np.abs(far - near)[both].mean()) if both.any() else 0.0
            found.append(math.log(step / spread + 1e-3))
    return np.array(found)


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of the training items' vectors, with a limit to the distance from it.

    Attributes:
        mean: (D,).
        whitening: (D, D), lower triangular: makes of their differences from the mean vectors of
            unit covariance. Its rows are as long as what they hold.
        limit: the largest distance that passes.
    """

    mean: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...]
    limit: float

    def __post_init__(self) -> None:
        lengths = [len(row) for row in self.whitening]
        if lengths != list(range(1, len(self.mean) + 1)):
            raise ValueError("a whitening matrix is not a lower triangle of the size of its mean")

    @classmethod
    def fit(cls, vectors: np.ndarray) -> Gaussian:
        """Fit to (n, D) vectors; the limit comes from vectors kept out of the estimate."""
        fold = np.arange(len(vectors)) % _FOLDS
        met: list[float] = []
        for left_out in range(_FOLDS):
            mean, whitening = _estimate(vectors[fold != left_out])
            met += [_distance(vector, mean, whitening) for vector in vectors[fold == left_out]]
        mean, whitening = _estimate(vectors)
        rows = tuple(_plain(row[: i + 1]) for i, row in enumerate(whitening))
        return cls(_plain(mean), rows, _rounded(_MARGIN * float(np.quantile(met, _QUANTILE))))

    def holds(self, vector: np.ndarray) -> bool:
        """Return whether a vector lies within the limit.

        Raises:
            CheckpointError: its length differs from that of the fitted vectors.
        """
        if len(vector) != len(self.mean):
            raise CheckpointError(
                f"familiarity in config.json is for vectors of {len(self.mean)} numbers, but the "
                f"model's have {len(vector)}: it is damaged, or belongs to another model. "
                "Remove the key; the model captions without it."
            )
        whitening = np.zeros((len(self.mean), len(self.mean)))
        for i, row in enumerate(self.whitening):
            whitening[i, : i + 1] = row
        return _distance(vector, np.array(self.mean), whitening) <= self.limit


def _estimate(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and whitening matrix."""
    covariance = np.atleast_2d(np.cov(vectors.T))
    # Without this, directions of almost no variance would flag every input.
    covariance += np.eye(len(covariance)) * (_SHRINKAGE * np.trace(covariance) / len(covariance))
    covariance += np.eye(len(covariance)) * 1e-12
    return vectors.mean(0), np.linalg.inv(np.linalg.cholesky(covariance))


def _distance(vector: np.ndarray, mean: np.ndarray, whitening: np.ndarray) -> float:
    return float(np.sqrt(((whitening @ (vector - mean)) ** 2).mean()))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(_rounded(float(value)) for value in values)


@dataclass(frozen=True)
class OutOfDistributionDetector:
    """Compares inputs with the training items that it was fitted to.

    Attributes:
        medium: medium of the model.
        ranges: (lowest, highest) of every quantity.
        modalities: modalities in their files, "" for a file without one.
        clouds: the distribution of the training items' vectors, by name of the vector.
        items: how many training items there were.
    """

    medium: str
    ranges: Mapping[str, tuple[float, float]]
    modalities: tuple[str, ...]
    clouds: Mapping[str, Gaussian]
    items: int

    @classmethod
    def fit(cls, medium: str, items: Iterable[ItemStats]) -> OutOfDistributionDetector:
        """Fit to training items, at least `2 * _FOLDS` of them."""
        seen = list(items)
        quantities = {name: [s.quantities[name] for s in seen] for name in seen[0].quantities}
        ranges = {name: (_rounded(min(q)), _rounded(max(q))) for name, q in quantities.items()}
        clouds = {
            name: Gaussian.fit(np.stack([s.vectors[name] for s in seen]).astype(np.float64))
            for name in seen[0].vectors
        }
        return cls(medium, ranges, tuple(sorted({s.modality for s in seen})), clouds, len(seen))

    def notices(self, media: Media, prepared: Input, annotations: np.ndarray) -> tuple[str, ...]:
        """Return one notice that lists all differences, or none.

        The arguments are those of `ItemStats.measure`.
        """
        item = ItemStats.measure(media, prepared, annotations)
        differing = [
            f"{value:.4g} {name} ({low:.4g} to {high:.4g} there)"
            for name, value in item.quantities.items()
            for low, high in (self.ranges.get(name, (-math.inf, math.inf)),)
            if not low * (1 - _ROOM) <= value <= high * (1 + _ROOM)
        ]
        if item.modality and item.modality not in self.modalities:
            named = [modality for modality in self.modalities if modality]
            there = f"{', '.join(named)} there" if named else "theirs is not named"
            differing.append(f"it is {item.modality} ({there})")
        differing += [
            says
            for name, says in _SAYS.items()
            if name in self.clouds and name in item.vectors
            if not self.clouds[name].holds(item.vectors[name])
        ]
        if not differing:
            return ()
        noun = MEDIA[self.medium].noun
        return (f"Unlike the {noun}s that the model was trained on: {'; '.join(differing)}.",)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> OutOfDistributionDetector:
        """Read the values of `to_json`.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            if values["medium"] not in MEDIA:
                raise ValueError(f"unknown medium {values['medium']!r:.100}")
            return cls(
                values["medium"],
                {name: (float(low), float(high)) for name, (low, high) in values["ranges"].items()},
                tuple(map(str, values["modalities"])),
                {
                    name: Gaussian(
                        tuple(map(float, cloud["mean"])),
                        tuple(tuple(map(float, row)) for row in cloud["whitening"]),
                        float(cloud["limit"]),
                    )
                    for name, cloud in values["clouds"].items()
                },
                int(values["items"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"familiarity in config.json is damaged: {error!r}. Remove the key; the model "
                "captions without it."
            ) from error
