"""The learning diary: a model's captions of fixed val pictures after each epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regard.errors import CheckpointError
from regard.explain import html
from regard.explain.drawing import CHOSEN_NOTE
from regard.explain.maps import SCALE_LEAST, absolute_scale
from regard.types import Grid
from regard.util.atomic import write_whole
from regard.util.safe_io import json_of

_FRAGMENTS = html.Fragments("diary.html")
_LEAST_SPAN = 0.01  # of a curve: smaller changes are not visible in the numbers either


@dataclass(frozen=True, eq=False)
class DiaryPicture:
    """One of the fixed pictures.

    Attributes:
        key: the picture's name, unique in the diary.
        pixels: (height, width, 3) uint8.
        grid: grid of the maps.
    """

    key: str
    pixels: np.ndarray
    grid: Grid


@dataclass(frozen=True, eq=False)
class DiaryCaption:
    """A caption of a picture.

    Attributes:
        words: its words.
        alpha: (T, L).
        cells: (T,) that hard attention chose; None where the context is an expectation.
    """

    words: Sequence[str]
    alpha: np.ndarray
    cells: Sequence[int] | None = None


@dataclass(frozen=True, eq=False)
class DiaryEntry:
    """One evaluation.

    Attributes:
        epoch: the epoch that it follows.
        scores: scores by name; nan for a missing one.
        captions: captions by the picture's key.
    """

    epoch: int
    scores: Mapping[str, float]
    captions: Mapping[str, DiaryCaption]

    def to_json(self) -> str:
        """Return the entry as one line of JSON; weights keep 5 decimals."""
        captions = {
            key: {
                "words": list(caption.words),
                "alpha": np.round(caption.alpha.astype(float), 5).tolist(),
                "cells": None if caption.cells is None else [int(cell) for cell in caption.cells],
            }
            for key, caption in self.captions.items()
        }
        scores = {name: float(value) for name, value in self.scores.items()}
        record = {"epoch": self.epoch, "scores": scores, "captions": captions}
        return json.dumps(record, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> DiaryEntry:
        """Parse what `to_json` wrote.

        Raises:
            CheckpointError: the line is damaged.
        """
        try:
            record = json_of(line)
            captions = {
                key: DiaryCaption(
                    tuple(one["words"]), np.array(one["alpha"], np.float32), one.get("cells")
                )
                for key, one in record["captions"].items()
            }
            return cls(int(record["epoch"]), dict(record["scores"]), captions)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"A line of the learning diary is damaged ({error}): it must have epoch, scores "
                "and captions. Move the diary's .jsonl file away to start a new one."
            ) from error


class Diary:
    """An HTML page that is rewritten after each evaluation, and the JSON lines behind it."""

    def __init__(self, path: Path, *, up_to_epoch: int | None) -> None:
        """Open a diary.

        Args:
            path: path of the page; its entries lie beside it as `.jsonl`.
            up_to_epoch: entries of later epochs, which a killed run wrote and the resumed run
                writes again, are dropped; None starts a new diary.

        Raises:
            CheckpointError: a stored entry is damaged.
        """
        self._path = path
        self._lines = path.with_suffix(".jsonl")
        self._entries: list[DiaryEntry] = []
        if up_to_epoch is not None and self._lines.exists():
            lines = self._lines.read_text("utf-8").split("\n")
            entries = [DiaryEntry.from_json(line) for line in lines if line]
            self._entries = [entry for entry in entries if entry.epoch <= up_to_epoch]

    def add(self, entry: DiaryEntry, pictures: Sequence[DiaryPicture]) -> None:
        """Add an evaluation, or replace the same epoch's, and write both files."""
        self._entries = [old for old in self._entries if old.epoch != entry.epoch]
        self._entries.append(entry)
        write_whole(self._lines, "".join(entry.to_json() + "\n" for entry in self._entries))
        write_diary(self._path, "Learning diary", pictures, self._entries)


def write_diary(
    path: str | Path, title: str, pictures: Sequence[DiaryPicture], entries: Sequence[DiaryEntry]
) -> None:
    """Write a diary as one self-contained HTML page.

    Args:
        path: path of the page; an existing page is replaced only once the new one is complete.
        title: title of the page.
        pictures: in the order of the page.
        entries: the evaluations, oldest first.
    """
    sections = "".join(_picture_html(picture, entries) for picture in pictures)
    assets = f"{html.assets_html()}<style>\n{html.asset('diary.css')}</style>"
    note, curves = _frame_note(entries), _curves_html(entries)
    fields = {"title": title, "assets": assets, "note": note, "curves": curves}
    write_whole(Path(path), _FRAGMENTS.fill("page", sections=sections, **fields))


def _frame_note(entries: Sequence[DiaryEntry]) -> str:
    """Explain the frames around cells; "" if no cell is framed."""
    captions = [caption for entry in entries for caption in entry.captions.values()]
    if all(caption.cells is None for caption in captions):
        return ""
    return f" Hard attention looked at one cell for each word; {CHOSEN_NOTE}."


def _picture_html(picture: DiaryPicture, entries: Sequence[DiaryEntry]) -> str:
    rows: list[str] = []
    for entry in entries:
        if picture.key not in entry.captions:
            continue  # the evaluation was limited to fewer pictures
        caption = entry.captions[picture.key]
        cells = caption.cells if caption.cells is not None else [None] * len(caption.words)
        words = [
            html.PageWord(text, row, f"epoch {entry.epoch} · peak {row.max():.1%}", cell=cell)
            for text, row, cell in zip(caption.words, caption.alpha, cells, strict=True)
        ]
        buttons = html.words_html(words, {"map": (absolute_scale(caption.alpha, picture.grid),)})
        rows.append(f"<li><b>{entry.epoch}</b>{buttons}</li>")
    return _FRAGMENTS.fill(
        "picture", maps=html.map_data(picture.grid, smooth=False), key=picture.key,
        picture=html.picture_html(picture.pixels, picture.grid, picture.key),
        scale=html.scale_html(SCALE_LEAST, picture.grid, smooth=False),
        output=html.output_html(), rows="".join(rows),
    )  # fmt: skip


def _curves_html(entries: Sequence[DiaryEntry]) -> str:
    """Return a small curve for every score and the table of all of them."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.scores))
    series = {n: [float(e.scores.get(n, math.nan)) for e in entries] for n in names}
    epochs = [entry.epoch for entry in entries]
    curves = "".join(_curve_html(name, epochs, values) for name, values in series.items())
    head = "".join(f"<th>{html.escaped(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{epoch}</td>{''.join(f'<td>{_score(series[n][i])}</td>' for n in names)}</tr>"
        for i, epoch in enumerate(epochs)
    )
    return _FRAGMENTS.fill("curves", curves=curves, head=head, rows=rows)


def _curve_html(name: str, epochs: Sequence[int], values: Sequence[float]) -> str:
    known = [(e, v) for e, v in zip(epochs, values, strict=True) if math.isfinite(v)]
    if not known:
        return ""
    low, high = min(v for _, v in known), max(v for _, v in known)
    first, last = known[0][0], known[-1][0]
    span = max(_LEAST_SPAN, high - low)
    points = [
        (4 + 152 * (e - first) / max(1, last - first), 44 - 40 * (v - low) / span) for e, v in known
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return _FRAGMENTS.fill(
        "curve", name=name, first=_score(known[0][1]), last=_score(known[-1][1]), line=line,
        x=x, y=y, low=_score(low), high=_score(high), epochs=f"{first}–{last}",
    )  # fmt: skip


def _score(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
