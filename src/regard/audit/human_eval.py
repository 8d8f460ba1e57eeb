"""Human evaluation: a person rates captions of randomly drawn pictures.

Scores compare text with text; only a person can tell whether a caption is right. To avoid selection
bias a seed draws the pictures, the same for every model, and every caption is rated.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from regard.audit.records import csv_table, plain_cell
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.errors import ConfigError, DatasetError
from regard.explain.drawing import QUIET, SMALL, Canvas, PanelGrid, choose_fonts, wrapped
from regard.util.safe_io import Unreadable, table_of

ANSWERS = {"content": ("right", "partly", "wrong"), "grammatical": ("yes", "no")}
"""The columns to fill in, and their possible answers. A caption is right where everything that it
names is in the picture, wrong where its main thing or that thing's action is not, and partly right
in between."""
COLUMNS = ("number", "picture", "caption", *ANSWERS, "note")
_COLUMNS, _ROWS = 5, 4  # pictures of a sheet
_WIDE, _HIGH, _GAP, _MARGIN = 2.8, 2.1, 0.18, 0.3  # inches of a picture, between two, around all
_TEXT, _FOOT, _POINTS = 0.72, 0.3, 9.5
_LINES = 4  # of a caption; a longer one is cut on the sheet, but not in the table
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class RatingItem:
    """One caption to rate.

    Attributes:
        number: from 1, as on the sheet and in the table.
        key: the picture's key.
        text: the caption; "" where the picture failed.
        pixels: (height, width, 3) uint8, in the size of the drawing; None where it failed.
    """

    number: int
    key: str
    text: str
    pixels: np.ndarray | None


@dataclass(frozen=True)
class HumanRatings:
    """The answers of a filled-in table.

    Attributes:
        counts: by column and answer.
        unrated: captions that lack an answer; they are not counted.
    """

    counts: dict[str, dict[str, int]]
    unrated: int

    @property
    def rated(self) -> int:
        """Number of captions with all answers."""
        return sum(self.counts["content"].values())


def sample_items(
    dataset: CaptionDataset, *, split: str = "val", pictures: int = 100, seed: int = 0
) -> tuple[CaptionedItem, ...]:
    """Draw a random sample of a split; a seed draws the same items everywhere.

    Items are ranked by a digest of the seed and their key, so that the sample does not depend on
    the order of the file, the model, or the version of a generator.

    Raises:
        ConfigError: `pictures` is below 1.
        DatasetError: the split has fewer.
    """
    if pictures < 1:
        raise ConfigError(f"Cannot draw a sample of {pictures} pictures: it must be 1 or more.")
    items = dataset.split(split).items
    if len(items) < pictures:
        raise DatasetError(
            f"{dataset.source} has {len(items)} pictures in the split {split!r}, but {pictures} "
            "were requested. Draw fewer, or name another split."
        )
    return tuple(sorted(items, key=lambda item: _rank(seed, item.key))[:pictures])


def rating_sheets(items: Sequence[RatingItem], about: str) -> Iterator[Figure]:
    """Yield contact sheets of 5 × 4 pictures with their captions below.

    They show neither references nor the model's name.

    Args:
        items: in order.
        about: printed at the foot, beside the number of the sheet.
    """
    each = _COLUMNS * _ROWS
    for start in range(0, len(items), each):
        foot = f"sheet {start // each + 1} of {math.ceil(len(items) / each)} · {about}"
        yield _sheet(items[start : start + each], foot)


def rating_table(items: Sequence[RatingItem]) -> str:
    """Return the CSV to fill in, one row for each caption."""
    rows = ((one.number, plain_cell(one.key), plain_cell(one.text), "", "", "") for one in items)
    return csv_table(COLUMNS, rows)


def count_ratings(text: str, source: str) -> HumanRatings:
    """Count the answers of a filled-in table.

    Args:
        text: text of the CSV.
        source: its path, for messages.

    Raises:
        DatasetError: a column is missing, or an answer is not one of `ANSWERS`.
    """
    try:
        names, rows = table_of(text)
    except Unreadable as error:
        raise DatasetError(f"{source} cannot be read: {error}.") from error
    missing = [name for name in ("number", *ANSWERS) if name not in names]
    if missing:
        raise DatasetError(
            f"{source} has no column {', '.join(missing)}. It must be the table that `regard "
            "reading draw` wrote, with commas between its columns."
        )
    counts = {name: Counter[str]() for name in ANSWERS}
    unrated = 0
    for row in rows:
        given = {name: (row[name] or "").strip().lower() for name in ANSWERS}
        for name, answer in given.items():
            if answer and answer not in ANSWERS[name]:
                raise DatasetError(
                    f"{source}: number {row['number']} has {answer!r:.80} in {name}; it must be "
                    f"{', '.join(ANSWERS[name])}, or empty."
                )
        if not all(given.values()):
            unrated += 1
            continue
        for name, answer in given.items():
            counts[name][answer] += 1
    whole = {name: {a: counts[name][a] for a in answers} for name, answers in ANSWERS.items()}
    return HumanRatings(whole, unrated)


def wilson_interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson 1927).

    >>> [round(end, 3) for end in wilson_interval(50, 100)]
    [0.404, 0.596]
    """
    share, z = count / of, _Z**2 / of
    half = _Z * math.sqrt(share * (1 - share) / of + z / (4 * of))
    return (share + z / 2 - half) / (1 + z), (share + z / 2 + half) / (1 + z)


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed} {key}".encode("utf-8", "surrogateescape")).digest()


def _sheet(items: Sequence[RatingItem], foot: str) -> Figure:
    width = 2 * _MARGIN + _COLUMNS * (_WIDE + _GAP) - _GAP
    height = 2 * _MARGIN + _ROWS * (_HIGH + _TEXT + _GAP) + _FOOT
    canvas = Canvas(width, height, choose_fonts("".join(one.text for one in items)))
    panels = PanelGrid(_COLUMNS, _WIDE, _HIGH, _TEXT, _GAP, _MARGIN, _MARGIN)
    for at, one in enumerate(items):
        left, top = panels.corner(at)
        axis = canvas.axes(left, top, _WIDE, _HIGH, str(one.number))
        if one.pixels is not None:
            axis.imshow(one.pixels, interpolation="antialiased")
        text = canvas.fonts.drawable(one.text) or "(no caption)"
        lines = wrapped(f"{one.number}. {text}", _WIDE + 0.9, _POINTS).split("\n")
        if len(lines) > _LINES:
            lines = [*lines[: _LINES - 1], lines[_LINES - 1] + " …"]
        canvas.write(left, top + _HIGH + 0.05, "\n".join(lines), _POINTS)
    canvas.write(_MARGIN, height - _MARGIN, foot, SMALL, QUIET, va="bottom")
    return canvas.figure
