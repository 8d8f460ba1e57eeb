"""Captions: their words, confidence and attention."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.types.media import Grid, Media

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN_BY = "regard.explain"
"""The module whose `draw` and `caption_html` draw captions. It is imported by name at the first
drawing, so that captions that are not drawn do not need matplotlib."""
SCHEMA_VERSION = 1
"""Version of the caption JSON; keys are only ever added to it."""


@dataclass(frozen=True)
class AttentionTrace:
    """The attention of a caption, word by word.

    Attributes:
        alpha: (T, L) float32; each row sums to 1 over valid cells.
        beta: (T,) mean gate; None without a gate.
        location: (T,) chosen cells of hard attention; None otherwise.
        attention: "soft" or "hard".
        context: how the context was formed: "expected", "sample" or "argmax".
        grid: the grid that the L cells lie on.
    """

    alpha: np.ndarray
    beta: np.ndarray | None
    location: np.ndarray | None
    attention: str
    context: str
    grid: Grid


@dataclass(frozen=True)
class Word:
    """One word of a caption, with its probability and attention.

    Attributes:
        text: the word as printed.
        logprob: natural log-probability given the words before it.
        alpha: attention in the grid's shape, float32.
        beta: mean gate; None without a gate.
        location: flat index of the chosen cell (hard attention); None otherwise.
        alternatives: strongest candidates as (text, logprob), best first; "<end>" stands for
            the caption's end, "<unk>" for any word outside the vocabulary, which is never
            part of a caption.
        token: the word's id in the vocabulary of its model.
        confidence: chance that people's captions support the word, where the model is calibrated
            (`regard.reliability.confidence`); None where it is not, and of function words.
        copy: the pointer's share of all probability; None if the model does not point.
        copied: the pointer's share of the word's own probability; None likewise.
        cell: the cell that contributed most to naming the word, an index on each axis of the grid;
            None likewise, and of words that name no concept.
    """

    text: str
    logprob: float
    alpha: np.ndarray
    beta: float | None = None
    location: int | None = None
    alternatives: tuple[tuple[str, float], ...] = ()
    token: int | None = None
    confidence: float | None = None
    copy: float | None = None
    copied: float | None = None
    cell: tuple[int, ...] | None = None

    @property
    def source(self) -> str | None:
        """ "concept" if the pointer gave at least half of the probability, else "vocabulary"."""
        if self.copied is None:
            return None
        return "concept" if self.cell is not None and self.copied >= 0.5 else "vocabulary"

    @property
    def entropy(self) -> float:
        """Entropy of the attention in nats; log L when it is uniform."""
        positive = self.alpha[self.alpha > 0].astype(np.float64)
        return float(-(positive * np.log(positive)).sum()) + 0.0

    @property
    def peak(self) -> float:
        """The largest weight, max alpha."""
        return float(self.alpha.max())


@dataclass(frozen=True)
class Caption:
    """A caption and its words with their attention.

    `str(caption)` is the text. `n_best` holds the runners-up of a beam, best first,
    the caption itself not included.
    """

    text: str
    words: tuple[Word, ...] = field(repr=False)
    score: float
    finished: bool
    trace: AttentionTrace = field(repr=False)
    file: str
    medium: str
    model: str
    seconds: float
    n_best: tuple[Caption, ...] = field(default=(), repr=False)
    notices: tuple[str, ...] = ()
    """Notices for the reader of the caption, such as "not for clinical use"."""
    media: Media | None = field(default=None, repr=False, compare=False)
    """The source, kept for drawing."""
    confidence: float | None = None
    """Expected share of its content words that people's captions support: the mean of their
    confidence. None if the model is not calibrated, or the caption has no content word."""

    def __str__(self) -> str:
        return self.text

    @property
    def pixels(self) -> np.ndarray | None:
        """The pixels of the source (see `Media`), if they were kept."""
        return self.media.pixels if self.media is not None and self.media.pixels.size else None

    @property
    def grid(self) -> Grid:
        """The grid that attention lies on."""
        return self.trace.grid

    def to_json(self, *, alpha: bool = True) -> dict[str, Any]:
        """Return the caption in the schema that command line, HTTP and bulk work share.

        Args:
            alpha: whether to include the maps, `[words][cells]`, row-major, 6 digits.

        Returns:
            A dictionary of plain Python values, ready for `json.dumps`. An unknown confidence has
            no key.
        """
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "file": self.file,
            "medium": self.medium,
            "caption": self.text,
            "score": self.score,
            "finished": self.finished,
            "words": [_word_json(word) for word in self.words],
            "grid": _grid_json(self.grid),
        }
        if alpha:
            record["alpha"] = [[round(float(a), 6) for a in row] for row in self.trace.alpha]
        record["n_best"] = [
            {"caption": c.text, "score": c.score, "finished": c.finished} for c in self.n_best
        ]
        record |= {"model": self.model, "seconds": self.seconds, "notices": list(self.notices)}
        return record | _confidence_json(self)

    def without_pixels(self) -> Caption:
        """Return the same caption without its source, for keeping many of them."""
        return replace(self, media=None)

    def figure(self, **options: Any) -> Figure:
        """Draw where the decoder looked for each word.

        A picture becomes a contact sheet, a clip a film strip, a scan a three-plane montage;
        takes the options of that drawing (`regard.explain.draw`).
        """
        return import_module(DRAWN_BY).draw(self, **options)

    def _repr_html_(self) -> str:
        return import_module(DRAWN_BY).caption_html(self)


def _grid_json(grid: Grid) -> dict[str, Any]:
    record: dict[str, Any] = {
        "axes": list(grid.axes),
        "shape": list(grid.shape),
        "source_size": list(grid.source_size),
    }
    if grid.spans:  # seconds of the real frames
        record["spans"] = [[round(t, 6) for t in span] for span in grid.spans]
        record["shown"] = [round(t, 6) for t in grid.shown]
    if grid.affine:
        record["extent"] = [list(span) for span in grid.extent]
        record["affine"] = [list(row) for row in grid.affine]
    return record


def _word_json(word: Word) -> dict[str, Any]:
    record: dict[str, Any] = {
        "text": word.text,
        "logprob": word.logprob,
        "beta": word.beta,
        "entropy": word.entropy,
        "peak": word.peak,
        "location": word.location,
        "alternatives": [{"text": text, "logprob": value} for text, value in word.alternatives],
    }
    if word.copy is not None:  # keys of models that point
        record |= {"source": word.source, "copy": round(word.copy, 4)}
        if word.source == "concept" and word.cell is not None:
            record["cell"] = list(word.cell)
    return record | _confidence_json(word)


def _confidence_json(said: Word | Caption) -> dict[str, Any]:
    return {} if said.confidence is None else {"confidence": round(said.confidence, 4)}
