"""A reading test: pictures drawn by chance, and a person who judges each caption by its picture.

Scores compare text with text. Only a reader sees whether a caption is right, and a reader must not
choose the pictures, nor stop at the ones that please. So they are drawn by a seed, the same for
every model, and every one of them is judged.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from regard.audit.records import plain_cell
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.errors import ConfigError, DatasetError
from regard.explain.fonts import choose_fonts
from regard.explain.image.sheet import place, wrapped

ANSWERS = {"content": ("right", "partly", "wrong"), "grammatical": ("yes", "no")}
"""The columns to fill in, and what may stand there. A caption is right where all that it says is
there, wrong where its main thing or what that does is not, and partly right in between."""
COLUMNS = ("number", "picture", "caption", *ANSWERS, "note")
_COLUMNS, _ROWS = 5, 4  # pictures of a sheet
_WIDE, _HIGH, _GAP, _MARGIN = 2.8, 2.1, 0.18, 0.3  # inches of a picture, between two, around all
_TEXT, _FOOT, _POINTS = 0.72, 0.3, 9.5
_LINES = 4  # of a caption; a longer one is cut on the sheet, and whole in the table
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Shown:
    """One caption of a reading test.

    Attributes:
        number: from 1 on; on the sheet and in the table.
        key: of the picture.
        text: the caption; "" where the picture failed.
        pixels: (height, width, 3) uint8, as it is to be drawn; None where it failed.
    """

    number: int
    key: str
    text: str
    pixels: np.ndarray | None


@dataclass(frozen=True)
class Reading:
    """What a reader found.

    Attributes:
        counts: by column and answer.
        unread: captions that lack an answer; they are in no count.
    """

    counts: dict[str, dict[str, int]]
    unread: int

    @property
    def read(self) -> int:
        """How many captions were judged."""
        return sum(self.counts["content"].values())


def drawn_items(
    dataset: CaptionDataset, *, split: str = "val", pictures: int = 100, seed: int = 0
) -> tuple[CaptionedItem, ...]:
    """Draw items of a split by chance; a seed draws the same ones everywhere.

    They are ranked by a digest of the seed and their key, so neither the order of the file nor
    the model nor the version of a generator has a part in it.

    Raises:
        ConfigError: fewer than one are wanted.
        DatasetError: the split has fewer.
    """
    if pictures < 1:
        raise ConfigError(f"a reading test of {pictures} pictures; it must be 1 or more.")
    items = dataset.split(split).items
    if len(items) < pictures:
        raise DatasetError(
            f"{dataset.source} has {len(items)} pictures in the split {split!r}, and {pictures} "
            "are to be drawn. Draw fewer, or name another split."
        )
    return tuple(sorted(items, key=lambda item: _rank(seed, item.key))[:pictures])


def reading_sheets(shown: Sequence[Shown], about: str) -> Iterator[Figure]:
    """Yield contact sheets of 5 × 4 pictures with their captions below.

    References and the model's name are not on them: a reader judges the picture alone.

    Args:
        shown: in order.
        about: stands at the foot, beside the number of the sheet.
    """
    each = _COLUMNS * _ROWS
    for start in range(0, len(shown), each):
        foot = f"sheet {start // each + 1} of {math.ceil(len(shown) / each)} · {about}"
        yield _sheet(shown[start : start + each], foot)


def reading_table(shown: Sequence[Shown]) -> str:
    """Return the CSV to fill in, one row for each caption."""
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(
        (one.number, plain_cell(one.key), plain_cell(one.text), "", "", "") for one in shown
    )
    return buffer.getvalue()


def count_reading(text: str, source: str) -> Reading:
    """Count a table that a reader filled in.

    Args:
        text: of the CSV.
        source: its path, for messages.

    Raises:
        DatasetError: a column is missing, or an answer is none of `ANSWERS`.
    """
    rows = csv.DictReader(io.StringIO(text))
    missing = [name for name in ("number", *ANSWERS) if name not in (rows.fieldnames or ())]
    if missing:
        raise DatasetError(
            f"{source} has no column {', '.join(missing)}. Wanted: the table that `regard reading "
            "draw` wrote, with commas between its columns."
        )
    counts = {name: Counter[str]() for name in ANSWERS}
    unread = 0
    for row in rows:
        given = {name: (row[name] or "").strip().lower() for name in ANSWERS}
        for name, answer in given.items():
            if answer and answer not in ANSWERS[name]:
                raise DatasetError(
                    f"{source}: number {row['number']} has {answer!r:.80} in {name}; it must be "
                    f"{', '.join(ANSWERS[name])}, or empty."
                )
        if not all(given.values()):
            unread += 1
            continue
        for name, answer in given.items():
            counts[name][answer] += 1
    whole = {name: {a: counts[name][a] for a in answers} for name, answers in ANSWERS.items()}
    return Reading(whole, unread)


def interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927).

    >>> [round(end, 3) for end in interval(50, 100)]
    [0.404, 0.596]
    """
    share, z = count / of, _Z**2 / of
    half = _Z * math.sqrt(share * (1 - share) / of + z / (4 * of))
    return (share + z / 2 - half) / (1 + z), (share + z / 2 + half) / (1 + z)


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed} {key}".encode("utf-8", "surrogateescape")).digest()


def _sheet(shown: Sequence[Shown], foot: str) -> Figure:
    fonts = choose_fonts("".join(one.text for one in shown))
    width = 2 * _MARGIN + _COLUMNS * (_WIDE + _GAP) - _GAP
    height = 2 * _MARGIN + _ROWS * (_HIGH + _TEXT + _GAP) + _FOOT
    figure = Figure(figsize=(width, height), facecolor="white")
    for at, one in enumerate(shown):
        row, column = divmod(at, _COLUMNS)
        left = _MARGIN + column * (_WIDE + _GAP)
        top = _MARGIN + row * (_HIGH + _TEXT + _GAP)
        axis = figure.add_axes(place(figure, left, top, _WIDE, _HIGH), label=str(one.number))
        axis.set_axis_off()
        if one.pixels is not None:
            axis.imshow(one.pixels, interpolation="antialiased")
        text = fonts.drawable(one.text) or "(no caption)"
        lines = wrapped(f"{one.number}. {text}", _WIDE + 0.9, _POINTS).split("\n")
        if len(lines) > _LINES:
            lines = [*lines[: _LINES - 1], lines[_LINES - 1] + " …"]
        x, y, _, _ = place(figure, left, top + _HIGH + 0.05, 0, 0)
        figure.text(x, y, "\n".join(lines), size=_POINTS, va="top", color="#1d2433",
                    family=fonts.families, parse_math=False)  # fmt: skip
    x, y, _, _ = place(figure, _MARGIN, height - _MARGIN, 0, 0)
    figure.text(x, y, foot, size=8, color="#667085", va="bottom", parse_math=False)
    return figure
