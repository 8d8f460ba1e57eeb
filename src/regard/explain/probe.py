"""What mattered: cover parts of a picture, keep the caption, see the words' probabilities move.

Attention says where the decoder looked. Whether the place mattered for a word is another
question, and this module asks it: cells of the picture are covered, the decoder reads the same
caption, and the log-probability of every word is compared with that on the whole picture
(occlusion: Zeiler and Fergus 2014; deletion and insertion: Petsiuk et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from regard.decoding.teacher import Forced, force_captions
from regard.errors import ConfigError
from regard.types import Caption
from regard.vocabulary import START

if TYPE_CHECKING:
    from regard.captioner import Captioner

COVERS = ("mean", "blur")
"""What a covered cell shows: the picture's mean colour, or the picture beyond recognition."""
_BLURRED_SIDE = 4  # pixels that are left of a blurred input's side
_BATCH = 32  # pictures that are encoded together


@dataclass(frozen=True)
class Occlusion:
    """What covering each cell does to each of T words.

    Attributes:
        falls: (T, *grid) log p(word | picture) - log p(word | cell covered), in nats: above 0
            where the cell spoke for the word, below 0 where it spoke against it.
        correlation: (T,) Spearman's rank correlation of the falls with alpha; nan where one of
            both is constant.
        cover: what a covered cell shows.
    """

    falls: np.ndarray
    correlation: np.ndarray
    cover: str


class Prober:
    """Reads one caption on its picture with any of the picture's cells covered."""

    def __init__(self, captioner: Captioner, caption: Caption, *, cover: str = "mean") -> None:
        """Prepare the picture.

        Args:
            captioner: the model that said the caption, or another with the same vocabulary
                whose reading of it is wanted.
            caption: with its picture and its words' ids.
            cover: one of `COVERS`.

        Raises:
            ConfigError: there is no such cover, or the caption lacks its picture, its ids, or
                a grid of rows and columns.
        """
        if cover not in COVERS:
            raise ConfigError(f"cover is {cover!r}; it must be one of {', '.join(COVERS)}.")
        tokens = [word.token for word in caption.words]
        if caption.media is None or None in tokens:
            raise ConfigError(
                "this caption holds no picture or no word ids, so it cannot be read again; "
                "caption the file with `Captioner.caption`."
            )
        self.captioner, self.cover = captioner, cover
        self.tokens = np.array(tokens, np.int64)
        found = captioner.encoder.prepare(caption.media)
        self.whole, self.grid = found.pixels, found.grid
        self.covered = _covered(self.whole, cover)

    def read(self, kept: np.ndarray) -> Forced:
        """Read the caption on N copies of the picture, each with some cells covered.

        Args:
            kept: (N, L) bool, False = the cell is covered.
        """
        parts: list[Forced] = []
        for at in range(0, len(kept), _BATCH):
            masks = self._pixel_mask(kept[at : at + _BATCH])
            pixels = np.where(masks, self.whole, self.covered)
            annotations = self.captioner.backend.encode(pixels, (self.grid,) * len(pixels))
            parts.append(
                force_captions(self.captioner.backend, annotations, self.tokens, start=START)
            )
        logprobs, alpha = zip(*((p.logprobs, p.alpha) for p in parts), strict=True)
        return Forced(np.concatenate(logprobs), np.concatenate(alpha))

    def _pixel_mask(self, kept: np.ndarray) -> np.ndarray:
        """Return (N, 1, S, S) bool of the input's pixels, True = as it is."""
        side = self.whole.shape[-1]
        rows, cols = (np.arange(side) * cells // side for cells in self.grid.shape)
        return kept.reshape(-1, 1, *self.grid.shape)[:, :, rows][..., cols]


def occlude(captioner: Captioner, caption: Caption, *, cover: str = "mean") -> Occlusion:
    """Cover each cell of a picture in turn and see each word's log-probability fall.

    The caption before the word is fixed, as said.

    Args:
        captioner: the model that said the caption.
        caption: with its picture.
        cover: see `COVERS`.

    Raises:
        ConfigError: see `Prober`.
    """
    prober = Prober(captioner, caption, cover=cover)
    cells = prober.grid.cells
    kept = np.concatenate([np.ones((1, cells), bool), ~np.eye(cells, dtype=bool)])
    read = prober.read(kept)
    falls = (read.logprobs[0] - read.logprobs[1:]).T  # (T, L)
    alpha = caption.trace.alpha
    correlation = [rank_correlation(a, f) for a, f in zip(alpha, falls, strict=True)]
    shape = (len(falls), *prober.grid.shape)
    return Occlusion(falls.reshape(shape), np.array(correlation, np.float64), cover)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rank correlation; ties share their mean rank; nan for a constant."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def _ranks(x: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def _covered(pixels: np.ndarray, cover: str) -> np.ndarray:
    """Return the input (3, S, S) as it looks where it is covered."""
    if cover == "mean":
        return np.broadcast_to(pixels.mean((1, 2), keepdims=True), pixels.shape)
    # Pillow has no Gaussian for planes of 32 bits; shrunk to a few pixels and enlarged again,
    # a picture is as blurred.
    few = (_BLURRED_SIDE, _BLURRED_SIDE)
    planes = [Image.fromarray(plane) for plane in np.ascontiguousarray(pixels)]
    blurred = [
        plane.resize(few, Image.Resampling.BOX).resize(plane.size, Image.Resampling.BICUBIC)
        for plane in planes
    ]
    return np.stack([np.asarray(plane) for plane in blurred])
