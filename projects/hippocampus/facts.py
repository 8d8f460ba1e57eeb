"""Facts: numbers measured on a hippocampus whose anterior and posterior parts are marked.

A mask holds 0 (elsewhere), 1 (anterior part) and 2 (posterior part). Every fact is one number,
computed from the mask alone or from the mask and the scan. Two thresholds cut the numbers into
three classes; they are quantiles of the training scans alone, rounded to what the captions say.
Directions are those of the file's affine, RAS+: up is superior and front is anterior. No file says
whether a crop shows the left or the right hippocampus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from regard.errors import DatasetError

ANTERIOR, POSTERIOR = 1, 2
MAJORITY_LIMIT = 0.7
"""Facts of which a larger share of the scans are in one class are not worth counting."""
_SHELL = 2  # voxels around the hippocampus that count as its surroundings


@dataclass(frozen=True)
class MarkedScan:
    """A scan with its mask, both (slices, rows, cols): up, to the front, to the right.

    Attributes:
        mask: 0, 1 (anterior) or 2 (posterior).
        values: the scan's own intensities.
        spacing: millimetres between voxels.
    """

    mask: np.ndarray
    values: np.ndarray
    spacing: tuple[float, float, float]

    def points(self, *labels: int) -> np.ndarray:
        """Return the middles of the voxels with these labels, (n, 3), in millimetres."""
        return np.argwhere(np.isin(self.mask, labels)) * np.array(self.spacing)

    def volume(self, *labels: int) -> float:
        """Return the volume in mm³."""
        return float(np.isin(self.mask, labels).sum() * np.prod(self.spacing))

    def mean(self, label: int) -> float:
        """Return the mean intensity of a part."""
        return float(self.values[self.mask == label].mean())


def _extent(axis: int) -> Callable[[MarkedScan], float]:
    def measure(marked: MarkedScan) -> float:
        return float(np.ptp(marked.points(1, 2)[:, axis]) + marked.spacing[axis])

    return measure


def _ratio(marked: MarkedScan) -> float:
    return marked.volume(ANTERIOR) / marked.volume(POSTERIOR)


def _between(axis: int, sign: int) -> Callable[[MarkedScan], float]:
    """Return the distance between the centres of the parts along an axis."""

    def measure(marked: MarkedScan) -> float:
        apart = marked.points(ANTERIOR).mean(0) - marked.points(POSTERIOR).mean(0)
        return float(sign * apart[axis])

    return measure


def _axes(marked: MarkedScan) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal axes' standard deviations, longest first, and their directions."""
    variances, directions = np.linalg.eigh(np.cov(marked.points(1, 2).T))
    return np.sqrt(variances[::-1]), directions[:, ::-1].T


def _tilt(marked: MarkedScan) -> float:
    up, front, _ = _axes(marked)[1][0]
    return float(np.degrees(np.arctan2(-up * np.sign(front), abs(front))))


def _border(marked: MarkedScan) -> float:
    """Return where the parts meet: 0 at the anterior end of the whole, 1 at its posterior end."""
    rows, half = marked.points(1, 2)[:, 1], marked.spacing[1] / 2
    front, back = rows.max() + half, rows.min() - half
    anterior, posterior = marked.points(ANTERIOR)[:, 1], marked.points(POSTERIOR)[:, 1]
    meeting = (anterior.min() - half + posterior.max() + half) / 2
    return float((front - meeting) / (front - back))


def _compactness(marked: MarkedScan) -> float:
    """Return the surface of the ball of equal volume over the surface of the voxels' faces."""
    whole = np.pad(marked.mask > 0, 1)
    slices, rows, cols = marked.spacing
    faces = (rows * cols, slices * cols, slices * rows)
    surface = sum(
        float((whole != np.roll(whole, 1, axis)).sum()) * area for axis, area in enumerate(faces)
    )
    return float(np.pi ** (1 / 3) * (6 * marked.volume(1, 2)) ** (2 / 3) / surface)


def _contrast(marked: MarkedScan) -> float:
    """Return the mean intensity of the whole over that of the two voxels around it."""
    whole = np.pad(marked.mask > 0, _SHELL)
    grown = whole
    for axis in range(3):  # a box, axis by axis; padded, so that nothing wraps around
        grown = np.any([np.roll(grown, by, axis) for by in range(-_SHELL, _SHELL + 1)], axis=0)
    shell = (grown & ~whole)[tuple(slice(_SHELL, -_SHELL) for _ in range(3))]
    return float(marked.values[marked.mask > 0].mean() / marked.values[shell].mean())


def _texture(marked: MarkedScan) -> float:
    inside = marked.values[marked.mask > 0]
    return float(inside.std() / inside.mean())


@dataclass(frozen=True)
class Fact:
    """A property of every scan: a number and its classes.

    Attributes:
        name: its key in `facts.json`.
        unit: unit of its number; "" for a ratio.
        meaning: description of the number.
        measure: measure of a marked scan.
        classes: their names from the smallest number on.
        step: thresholds are rounded to multiples of it.
        fixed: thresholds that are not quantiles.
    """

    name: str
    unit: str
    meaning: str
    measure: Callable[[MarkedScan], float]
    classes: tuple[str, ...]
    step: float = 0.01
    fixed: tuple[float, ...] = ()

    def class_of(self, value: float, thresholds: tuple[float, ...]) -> str:
        """Return the class of a number; one that is a threshold belongs above it."""
        return self.classes[sum(value >= threshold for threshold in thresholds)]


_SIZES = ("small", "medium", "large")
FACTS = (
    Fact("volume", "mm³", "of the whole", lambda m: m.volume(1, 2), _SIZES, 10),
    Fact("anterior_volume", "mm³", "of the anterior part", lambda m: m.volume(1), _SIZES, 10),
    Fact("posterior_volume", "mm³", "of the posterior part", lambda m: m.volume(2), _SIZES, 10),
    Fact(
        "larger_part", "", "anterior volume / posterior volume", _ratio,
        ("posterior", "anterior"), fixed=(1.0,),
    ),
    Fact(
        "margin", "", "larger volume / smaller volume", lambda m: max(_ratio(m), 1 / _ratio(m)),
        ("slight", "moderate", "great"),
    ),
    Fact("length", "mm", "of the whole, back to front", _extent(1),
         ("short", "medium", "long"), 1),
    Fact("breadth", "mm", "of the whole, left to right", _extent(2),
         ("narrow", "medium", "broad"), 1),
    Fact("height", "mm", "of the whole, bottom to top", _extent(0), ("low", "medium", "tall"), 1),
    Fact("tilt", "°", "by which the longest axis falls to the front", _tilt,
         ("gentle", "moderate", "steep"), 1),
    Fact("drop", "mm", "the anterior part's centre lies below the posterior part's",
         _between(0, -1), ("little", "well", "far"), 0.1),
    Fact("turn", "mm", "the anterior part's centre lies right of the posterior part's",
         _between(2, 1), ("hardly", "somewhat", "far"), 0.1),
    Fact("border", "", "where along the whole, from its front, the parts meet", _border,
         ("front", "between", "middle")),
    Fact("elongation", "", "longest axis / second axis (standard deviations)",
         lambda m: float(_axes(m)[0][0] / _axes(m)[0][1]), ("stocky", "medium", "slender")),
    Fact("flatness", "", "second axis / third axis (standard deviations)",
         lambda m: float(_axes(m)[0][1] / _axes(m)[0][2]), ("round", "oval", "flat")),
    Fact("surface", "", "surface of the ball of this volume / its own surface", _compactness,
         ("rough", "medium", "smooth"), 0.001),
    Fact("brightness", "", "mean of the anterior part / mean of the posterior part",
         lambda m: m.mean(ANTERIOR) / m.mean(POSTERIOR), ("darker", "equal", "brighter"), 0.001),
    Fact("contrast", "", "mean of the whole / mean of the 2 mm around it", _contrast,
         ("strong", "medium", "weak"), 0.001),
    Fact("texture", "", "standard deviation / mean inside", _texture,
         ("even", "medium", "uneven"), 0.001),
)  # fmt: skip
"""In the order in which tables show them."""

Thresholds = Mapping[str, tuple[float, ...]]
"""By fact."""


def measure_facts(marked: MarkedScan) -> dict[str, float]:
    """Return every fact's number.

    Raises:
        DatasetError: a part is missing from the mask.
    """
    for label, name in ((ANTERIOR, "anterior"), (POSTERIOR, "posterior")):
        if not (marked.mask == label).any():
            raise DatasetError(
                f"the mask marks no {name} part (label {label}); it holds the labels "
                f"{np.unique(marked.mask).tolist()}. Masks of the Medical Segmentation Decathlon's "
                "Task04 are expected."
            )
    return {fact.name: fact.measure(marked) for fact in FACTS}


def fit_thresholds(training: Iterable[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Return each fact's thresholds: the terciles of the training scans, rounded."""
    rows = list(training)
    found: dict[str, tuple[float, ...]] = {}
    for fact in FACTS:
        cuts = [i / len(fact.classes) for i in range(1, len(fact.classes))]
        quantiles = np.quantile([row[fact.name] for row in rows], cuts)
        rounded = tuple(round(float(round(q / fact.step) * fact.step), 6) for q in quantiles)
        found[fact.name] = fact.fixed or rounded
    return found


def classify(values: Mapping[str, float], thresholds: Thresholds) -> dict[str, str]:
    """Return every fact's class."""
    return {fact.name: fact.class_of(values[fact.name], thresholds[fact.name]) for fact in FACTS}


def most_frequent_classes(classes: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, float]]:
    """Return each fact's most frequent class and its share."""
    rows = list(classes)
    found: dict[str, tuple[str, float]] = {}
    for fact in FACTS:
        name, count = Counter(row[fact.name] for row in rows).most_common(1)[0]
        found[fact.name] = (name, count / len(rows))
    return found
