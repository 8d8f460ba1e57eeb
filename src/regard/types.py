"""The values that travel from a file to a caption, and the shapes they have.

Shape letters: B captions in a batch, N items (pictures, clips or scans), F frames, L grid
cells, D annotation features, A attention features, H hidden units, E embedding features, V words
in the vocabulary, T steps. Arrays are numpy arrays or torch tensors: whatever the backend holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = Any
"""A numpy array or a torch tensor: anything that array-api-compat understands."""

SCHEMA_VERSION = 1
"""Version of the caption JSON; keys are only ever added to it."""


@dataclass(frozen=True)
class Grid:
    """Where the cells of an annotation grid lie on their source.

    Source units are pixels for a picture's rows and cols, seconds for frames, and millimetres
    along the scan's own axes for the slices, rows and cols of a volume.

    Attributes:
        axes: name of each axis: ("rows", "cols"), ("frames",), ("frames", "rows", "cols") or
            ("slices", "rows", "cols").
        shape: cells along each axis; their product is L.
        source_size: size of the upright source along each axis, in source units.
        extent: the interval of the source that each axis covers, in source units. It may
            be smaller than the source (a centre crop) or larger (padding).
        spans: for each real frame the (start, stop) in seconds that it stands for; frames of
            the shape beyond them are padding. Empty without an axis of frames.
        shown: for each real frame the time in seconds at which it is shown.
        affine: 4×4, row by row, from (slices, rows, cols) in millimetres from the scan's
            corner to world millimetres, RAS+. Empty for other media.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    source_size: tuple[float, ...]
    extent: tuple[tuple[float, float], ...]
    spans: tuple[tuple[float, float], ...] = ()
    shown: tuple[float, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()

    @property
    def cells(self) -> int:
        """Number of cells, L."""
        return math.prod(self.shape)

    @property
    def real_cells(self) -> int:
        """Number of cells that are no padding (of a clip they come first in row-major order)."""
        if self.axes[0] == "frames":
            return len(self.spans) * math.prod(self.shape[1:])
        if self.axes[0] == "slices":
            return math.prod(sum(self.real_along(axis)) for axis in range(3))
        return self.cells

    def real_along(self, axis: int) -> tuple[bool, ...]:
        """Return which cells along an axis of a scan lie in it, by their middles.

        Where none does (one thin slice in a thick cell), the one nearest to the scan's middle.
        """
        (start, stop), size, cells = self.extent[axis], self.source_size[axis], self.shape[axis]
        middles = [start + (i + 0.5) * (stop - start) / cells for i in range(cells)]
        inside = tuple(0 <= middle <= size for middle in middles)
        if any(inside):
            return inside
        nearest = min(range(cells), key=lambda i: abs(middles[i] - size / 2))
        return tuple(i == nearest for i in range(cells))


@dataclass(frozen=True)
class Media:
    """One upright picture, clip (`Clip`) or scan (`Scan`), ready for preprocessing.

    Attributes:
        medium: "image", "video" or "volume".
        pixels: (height, width, 3) uint8, RGB, upright; of a clip (F, height, width, 3); of a
            scan (slices, rows, cols) float32.
        name: the path or name that the user gave.
        digest: SHA-256 of the file's bytes, or of the pixels where there was no file.
        notes: what the reader had to decide, such as "first of 12 frames".
    """

    medium: str
    pixels: np.ndarray
    name: str
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a picture in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class Clip(Media):
    """The chosen frames of a video clip, upright.

    Attributes:
        pixels: (F, height, width, 3) uint8, RGB. Large frames are kept smaller than they were.
        times: (F,) when each frame is shown, in seconds from the clip's first frame.
        spans: (F,) the (start, stop) in seconds that each frame stands for.
        duration: of the whole clip in seconds.
        frame_size: (height, width) of the upright frames on square pixels, before they were made
            smaller.
    """

    times: tuple[float, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    duration: float = 0.0
    frame_size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Scan(Media):
    """A 3D scan in canonical orientation.

    Attributes:
        pixels: (slices, rows, cols) float32 in the scan's own units (Hounsfield units of a
            CT). Axis 0 runs from inferior to superior, axis 1 from posterior to anterior,
            axis 2 from left to right, as nearly as the scan's axes do (RAS+).
        affine: (4, 4) from (slice, row, col, 1) of `pixels` to world millimetres, RAS+.
        source_affine: (4, 4) from the file's own voxel (i, j, k, 1) to world millimetres, RAS+.
        source_shape: voxels along the file's own axes (i, j, k).
        modality: "CT", "MR" or "" where the file does not say.
        window: the (low, high) that are drawn black and white, in the scan's own units.
    """

    affine: np.ndarray = field(default_factory=lambda: np.eye(4), repr=False)
    source_affine: np.ndarray = field(default_factory=lambda: np.eye(4), repr=False)
    source_shape: tuple[int, ...] = ()
    modality: str = ""
    window: tuple[float, float] = (0.0, 1.0)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along (slices, rows, cols)."""
        slices, rows, cols = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slices), float(rows), float(cols)


@dataclass(frozen=True)
class Annotations:
    """What an encoder makes of N items.

    Attributes:
        vectors: (N, L, D), one annotation vector a_i per cell.
        mask: (N, L) bool, True = real cell.
        grids: one Grid per item.
    """

    vectors: Array
    mask: Array
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class ProjectedAnnotations:
    """Annotations as the decoder reads them: projected once per item, not once per step.

    Attributes:
        values: (N, L, D), what the context vector is a weighted sum of.
        keys: (N, L, A), what the query is scored against.
        mask: (N, L) bool, True = real cell.
        copies: whether `select` copies what it selects.
    """

    values: Array
    keys: Array
    mask: Array
    copies: ClassVar[bool] = True

    def select(self, index: Array) -> ProjectedAnnotations:
        """Return the items that `index` names, in that order."""
        return ProjectedAnnotations(self.values[index], self.keys[index], self.mask[index])


@dataclass(frozen=True)
class DecoderState:
    """The LSTM's state after some words.

    Attributes:
        hidden: (B, H), h_t.
        memory: (B, H), c_t.
    """

    hidden: Array
    memory: Array

    def select(self, index: Array) -> DecoderState:
        """Return the captions that `index` names, in that order (beams are reordered so)."""
        return DecoderState(self.hidden[index], self.memory[index])


@dataclass(frozen=True)
class Step:
    """What the decoder says at one step.

    Attributes:
        logits: (B, V), unnormalised log-probabilities of the next word.
        state: the state after the step.
        alpha: (B, L), attention: sums to 1 over valid cells, 0 elsewhere.
        beta: (B, 1) or (B, D) gate in [0, 1]; None without a gate.
        location: (B,) the one cell that hard attention looked at; None where the context
            is an expectation.
        location_logprob: (B,) log alpha at that cell; None likewise.
    """

    logits: Array
    state: DecoderState
    alpha: Array
    beta: Array | None = None
    location: Array | None = None
    location_logprob: Array | None = None


@dataclass(frozen=True)
class Hypothesis:
    """One decoded caption in ids, with its full trace. The end token is no word.

    Attributes:
        tokens: T word ids.
        logprobs: (T,) natural log-probability of each word, before any length penalty.
        score: what candidates were ranked by: the sum of log-probabilities, the end
            token's included, divided by the length penalty.
        finished: whether the end token was reached.
        alpha: (T, L) float32.
        beta: (T,) mean gate per word; None without a gate.
        location: (T,) the cell that hard attention looked at; None otherwise.
        alternatives: for each word the strongest candidates as (id, logprob), best first.
    """

    tokens: tuple[int, ...]
    logprobs: np.ndarray
    score: float
    finished: bool
    alpha: np.ndarray
    beta: np.ndarray | None
    location: np.ndarray | None
    alternatives: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class AttentionTrace:
    """Where the decoder looked for each word.

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
    """One word of a caption and what is known of it.

    Attributes:
        text: the word as printed.
        logprob: natural log-probability given the words before it.
        alpha: attention in the grid's shape, float32.
        beta: mean gate; None without a gate.
        location: flat index of the chosen cell (hard attention); None otherwise.
        alternatives: strongest candidates as (text, logprob), best first; "<end>" stands for
            the caption's end, "<unk>" for any word that the vocabulary lacks, which is never
            said.
        token: the word's id in the vocabulary of the model that said it.
        confidence: chance that people's captions support the word, where the model is calibrated
            (`regard.confidence`); None where it is not, and of function words.
    """

    text: str
    logprob: float
    alpha: np.ndarray
    beta: float | None = None
    location: int | None = None
    alternatives: tuple[tuple[str, float], ...] = ()
    token: int | None = None
    confidence: float | None = None

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
    """A caption, its words and where the decoder looked for each.

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
    """What a reader of the caption must know, such as "not for clinical use"."""
    media: Media | None = field(default=None, repr=False, compare=False)
    """The source, kept for drawing."""
    confidence: float | None = None
    """Share of its content words that people's captions can be expected to support: the mean of
    their confidence. None where the model is not calibrated, or no word says anything."""

    def __str__(self) -> str:
        return self.text

    @property
    def pixels(self) -> np.ndarray | None:
        """The pixels of the source (see `Media`), where they were kept."""
        return None if self.media is None else self.media.pixels

    @property
    def grid(self) -> Grid:
        """The grid that attention lies on."""
        return self.trace.grid

    def to_json(self, *, alpha: bool = True) -> dict[str, Any]:
        """Return the caption in the one schema of command line, HTTP and bulk work.

        Args:
            alpha: whether to include the maps, `[words][cells]`, row-major, 6 digits.

        Returns:
            A dictionary of plain Python values, ready for `json.dumps`. A confidence that is not
            known has no key.
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
        from regard.explain import draw

        return draw(self, **options)

    def _repr_html_(self) -> str:
        from regard.explain import caption_html

        return caption_html(self)


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
    record = {
        "text": word.text,
        "logprob": word.logprob,
        "beta": word.beta,
        "entropy": word.entropy,
        "peak": word.peak,
        "location": word.location,
        "alternatives": [{"text": text, "logprob": value} for text, value in word.alternatives],
    }
    return record | _confidence_json(word)


def _confidence_json(said: Word | Caption) -> dict[str, Any]:
    return {} if said.confidence is None else {"confidence": round(said.confidence, 4)}
