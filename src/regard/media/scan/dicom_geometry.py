"""Geometry of DICOM slices: their order, their affine, and checks that they form a volume."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regard.errors import MediaError

_SAME_DIRECTION = 1e-3  # of unit vectors, which files give to some six digits
_SAME_PLACE = 1e-3  # millimetres
_UNEVEN = 0.1  # of the usual gap between slices
_ASIDE = 0.5  # of a pixel: how far a slice may lie beside the line through the others
_SPLIT = (
    "Convert it into one volume per file, for example with dcm2niix, or put the slices of one "
    "volume into a folder of their own."
)

Placement = tuple[np.ndarray, np.ndarray, tuple[str, ...]]
"""Slices in their order; (4, 4) from (column, row, slice, 1) to world millimetres, RAS+; notes."""


@dataclass(frozen=True)
class DicomPlane:
    """The position of one slice in DICOM's coordinates, in millimetres (LPS).

    Attributes:
        position: centre of the first pixel; None if unknown.
        orientation: unit vectors along a row and down a column; None likewise.
        spacing: between rows and between columns, in millimetres; None likewise.
        depth: distance between slices, as stored in the file.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    depth: float | None


def place_slices(planes: Sequence[DicomPlane], name: str) -> Placement:
    """Return the order and the affine of slices, from their positions alone.

    Args:
        planes: planes of all slices, in any order.
        name: the scan's name in messages.

    Raises:
        MediaError: orientations or spacings differ, positions are missing, or slices are missing,
            duplicate or out of line.
    """
    spacing, notes = _spacing(planes, name)
    orientation = _orientation(planes, name)
    if orientation is None:
        return _unplaced(planes, spacing, notes, name)
    along, down = orientation
    normal = np.cross(along, down)
    positions = np.array([plane.position for plane in planes], np.float64)
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    if len(planes) == 1:
        depth, remark = _depth(planes[0])
        step = normal * depth
        notes += remark
    else:
        positions, heights = positions[order], heights[order]
        _check_gaps(np.diff(heights), name)
        # The step does not follow the normal if the gantry was tilted.
        step = (positions[-1] - positions[0]) / (len(planes) - 1)
        aside = positions - (positions[0] + np.arange(len(planes))[:, None] * step)
        aside -= (aside @ normal)[:, None] * normal
        if np.abs(aside).max() > _ASIDE * min(spacing):
            raise MediaError(
                f"{name} has slices that are out of line by up to {np.abs(aside).max():.3g} mm: "
                f"they do not form a volume. {_SPLIT}"
            )
    affine = _ras_affine(along * spacing[1], down * spacing[0], step, positions[0])
    return order, affine, notes


def _spacing(
    planes: Sequence[DicomPlane], name: str
) -> tuple[tuple[float, float], tuple[str, ...]]:
    found = {plane.spacing for plane in planes}
    if len({s and tuple(round(v, 4) for v in s) for s in found}) > 1:
        raise MediaError(f"{name} has slices with {len(found)} different pixel spacings. {_SPLIT}")
    spacing = found.pop()
    if spacing is None:
        return (1.0, 1.0), ("no pixel spacing: taken as 1 mm",)
    if min(spacing) <= 0:
        raise MediaError(f"{name} has a pixel spacing of 0 mm or less. Export it again.")
    return (spacing[0], spacing[1]), ()


def _orientation(planes: Sequence[DicomPlane], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return unit vectors along a row and down a column; None if no slice has a position."""
    lost = sum(plane.position is None or plane.orientation is None for plane in planes)
    if lost == len(planes):
        return None
    if lost:
        raise MediaError(
            f"{name} has {lost} of {len(planes)} slices without a position. Take them "
            "out, or export them again."
        )
    distinct: list[np.ndarray] = []
    for row in np.array([plane.orientation for plane in planes], np.float64):
        if not any(np.abs(row - other).max() < _SAME_DIRECTION for other in distinct):
            distinct.append(row)
    if len(distinct) > 1:
        raise MediaError(
            f"{name} has slices with {len(distinct)} different orientations, as localizers "
            f"have: they do not form a volume. {_SPLIT}"
        )
    along, down = distinct[0][:3], distinct[0][3:]
    lengths = np.linalg.norm((along, down), axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(along @ down) > 0.01:
        raise MediaError(
            f"{name} has an orientation whose row and column are not orthogonal unit vectors. "
            "Export it again."
        )
    return along / lengths[0], down / lengths[1]


def _unplaced(
    planes: Sequence[DicomPlane], spacing: tuple[float, float], notes: tuple[str, ...], name: str
) -> Placement:
    """Return the placement of a slice whose position is not known."""
    if len(planes) > 1:
        raise MediaError(
            f"{name} has {len(planes)} frames or slices without a position, such as those of a "
            "film: their order in space is unknown. Convert it to NIfTI with a correct affine."
        )
    depth, remark = _depth(planes[0])
    axes = np.diag((spacing[1], spacing[0], depth))
    notes += (*remark, "no position and orientation: left and right, front and back are not known")
    return np.zeros(1, int), _ras_affine(axes[0], axes[1], axes[2], np.zeros(3)), notes


def _depth(plane: DicomPlane) -> tuple[float, tuple[str, ...]]:
    if plane.depth is None:
        return 1.0, ("one slice of unknown thickness: taken as 1 mm",)
    return plane.depth, ("one slice",)


def _check_gaps(gaps: np.ndarray, name: str) -> None:
    """Raise if slices lie at the same place or at uneven distances."""
    double = int((gaps < _SAME_PLACE).sum())
    if double:
        count = len(gaps) + 1
        raise MediaError(
            f"{name} has {count} slices at {count - double} places: several volumes in one "
            f"series, such as time points, echoes or diffusion weightings. {_SPLIT}"
        )
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # of two different gaps the smaller
    uneven = np.flatnonzero(np.abs(gaps - usual) > _UNEVEN * usual)
    if not uneven.size:
        return
    at = int(uneven[0])
    ratios = gaps[uneven] / usual
    whole = np.round(ratios)
    missing = int((whole - 1)[np.abs(ratios - whole) <= _UNEVEN].sum())
    what = f"{missing} slices missing" if missing else "slices at uneven distances"
    raise MediaError(
        f"{name} has {what}: {gaps[at]:.4g} mm between slices {at + 1} and {at + 2}, where "
        f"{usual:.4g} mm is usual. Add what is missing, or resample it to even distances first."
    )


def _ras_affine(
    along: np.ndarray, down: np.ndarray, step: np.ndarray, first: np.ndarray
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3] = np.column_stack((along, down, step, first))
    affine[:2] *= -1  # LPS to RAS
    return affine
