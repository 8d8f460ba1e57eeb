"""Occlusion: the change of the words' probabilities when parts of the input are covered.

Attention shows where the decoder looked, but not whether the place mattered for a word. Occlusion
measures that: parts of the input are covered, the decoder is forced to the same caption, and the
log-probability of every word is compared with that on the whole input (occlusion: Zeiler and
Fergus 2014; deletion and insertion: Petsiuk et al. 2018).

A part is a cell of a picture's or a scan's grid, or a frame of a clip: covering every cell of
every frame would mean reading hundreds of clips, and a thing hidden in one frame is visible in the
next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from regard.decoding.sampling import ForcedCaptions, force_captions
from regard.errors import ConfigError
from regard.text.vocabulary import START
from regard.types import Annotations, Caption, Clip, Grid
from regard.util.parallel import check_stopped

if TYPE_CHECKING:
    from regard.captioner import Captioner


COVERS = ("mean", "blur")
"""Content of a covered part: the input's mean colour, or the input blurred beyond recognition."""
_BLURRED_SIDE = 4  # pixels or voxels that remain of a blurred input's side
_BATCH = 32  # pictures encoded together


def check_cover(cover: str) -> None:
    """Check the name of a cover.

    Raises:
        ConfigError: it is not one of `COVERS`.
    """
    if cover not in COVERS:
        raise ConfigError(f"cover is {cover!r}: it must be one of {', '.join(COVERS)}.")


@dataclass(frozen=True)
class Occlusion:
    """The effect of covering each part on each of T words.

    Attributes:
        falls: (T, *grid) of a picture or scan, (T, F) of a clip's real frames:
            log p(word | input) - log p(word | part covered), in nats: above 0 where the part
            supports the word, below 0 where it contradicts it; 0 at a scan's padding, which is
            not covered.
        correlation: (T,) Spearman's rank correlation of the falls with the attention that the
            parts received, over the real parts; nan where one of the two is constant.
        cover: one of `COVERS`.
        covered: the part covered at a time: "cell", or "frame" of a clip.
    """

    falls: np.ndarray
    correlation: np.ndarray
    cover: str
    covered: str = "cell"


class Occluder:
    """Forces one caption on its picture, clip or scan with any of its parts covered.

    Attributes:
        shape: shape of the P parts: the grid's of a picture or scan, (F,) of a clip's real frames.
        part: kind of the parts: "cell" or "frame".
        real: indices of the parts that are not padding; at padding attention and falls are 0.
    """

    def __init__(self, captioner: Captioner, caption: Caption, *, cover: str = "mean") -> None:
        """Prepare the input.

        Args:
            captioner: the model of the caption, or another with the same vocabulary.
            caption: with its source and its words' ids.
            cover: one of `COVERS`.

        Raises:
            ConfigError: the cover is unknown, or the caption lacks its source or its ids.
        """
        check_cover(cover)
        tokens = [word.token for word in caption.words]
        if caption.media is None or None in tokens:
            raise ConfigError(
                "This caption holds no source or no word ids, so it cannot be read again. "
                "Caption the file with `Captioner.caption`."
            )
        self.captioner, self.cover = captioner, cover
        self.tokens = np.array(tokens, np.int64)
        prepared = captioner.reader.prepare(caption.media)
        self.whole, self.mask, self.grid = prepared.pixels, prepared.mask, prepared.grid
        self.covered = _covered(self.whole, self.grid, cover)
        is_clip = isinstance(caption.media, Clip)
        self.part = "frame" if is_clip else "cell"
        self.shape = (len(self.grid.spans),) if is_clip else self.grid.shape
        frames = np.arange(math.prod(self.shape))
        self.real = frames if is_clip else np.flatnonzero(self.mask)
        self._frames_alone = is_clip and captioner.reader.frames_alone
        self._both: Annotations | None = None

    def part_attention(self, alpha: np.ndarray) -> np.ndarray:
        """Return the attention that each part received, (T, P), of weights (T, L)."""
        parts = math.prod(self.shape)
        real = alpha[:, : self.grid.real_cells] if self.part == "frame" else alpha
        return real.reshape(len(alpha), parts, real.shape[1] // parts).sum(-1)

    def read(self, visible: np.ndarray) -> ForcedCaptions:
        """Force the caption on N copies of the input, each with some parts covered.

        Args:
            visible: (N, P) bool, False = the part is covered.
        """
        size = max(1, _BATCH // self.captioner.reader.pictures_per_item)
        backend = self.captioner.backend
        forced = [
            force_captions(backend, self._annotations(batch), self.tokens, start=START)
            for batch in np.split(visible, range(size, len(visible), size))
        ]
        logprobs, alpha = zip(*((one.logprobs, one.alpha) for one in forced), strict=True)
        return ForcedCaptions(np.concatenate(logprobs), np.concatenate(alpha))

    def _annotations(self, visible: np.ndarray) -> Annotations:
        """Encode N copies (N, P), each with some parts covered."""
        if self._frames_alone:
            return self._joined(visible)
        masks = self._pixel_mask(visible)
        return self._encode(np.where(masks, self.whole, self.covered))

    def _encode(self, pixels: np.ndarray) -> Annotations:
        check_stopped()
        copies = len(pixels)
        masks = np.tile(self.mask, (copies, 1))
        return self.captioner.backend.encode(pixels, (self.grid,) * copies, masks)

    def _joined(self, visible: np.ndarray) -> Annotations:
        """Join the vectors of whole and of covered frames.

        Each vector depends on its frame alone, so N copies cost the encoding of two clips.
        """
        if self._both is None:
            pixels = self.whole.copy()
            pixels[: self.shape[0]] = self.covered[: self.shape[0]]
            self._both = self._encode(np.stack([self.whole, pixels]))
        asarray = self.captioner.backend.asarray
        frames = self.grid.shape[0]
        index = np.zeros((len(visible), frames), np.int64)  # frames of padding stay as they are
        index[:, : self.shape[0]] = ~visible
        cells = self.grid.cells // frames
        rows = asarray(np.repeat(index, cells, axis=1))
        columns = asarray(np.arange(self.grid.cells))
        vectors = self._both.vectors[rows, columns]
        mask = asarray(np.tile(self.mask, (len(visible), 1)))
        return Annotations(vectors, mask, (self.grid,) * len(visible))

    def _pixel_mask(self, visible: np.ndarray) -> np.ndarray:
        """Return (N, ...) bool that broadcasts over the input's values, True = as it is."""
        if self.part == "frame":
            frames = np.ones((len(visible), len(self.whole)), bool)
            frames[:, : self.shape[0]] = visible
            return frames[:, :, None, None, None]
        masks = (visible | ~self.mask).reshape(-1, *self.grid.shape)  # padding is not covered
        for axis, (points, cells) in enumerate(
            zip(self.whole.shape[1:], self.grid.shape, strict=True), start=1
        ):
            masks = masks.take(np.arange(points) * cells // points, axis=axis)
        return masks[:, None]


def occlude(captioner: Captioner, caption: Caption, *, cover: str = "mean") -> Occlusion:
    """Cover each part of an input in turn and measure the fall of each word's log-probability.

    The words before it are those of the caption. A part is a cell of a picture or scan, or a
    frame of a clip.

    Args:
        captioner: the model of the caption.
        caption: with its source.
        cover: see `COVERS`.

    Raises:
        ConfigError: see `Occluder`.
    """
    occluder = Occluder(captioner, caption, cover=cover)
    parts = math.prod(occluder.shape)
    visible = np.concatenate([np.ones((1, parts), bool), ~np.eye(parts, dtype=bool)[occluder.real]])
    read = occluder.read(visible)
    of_real = (read.logprobs[0] - read.logprobs[1:]).T
    falls = np.zeros((len(of_real), parts), of_real.dtype)
    falls[:, occluder.real] = of_real
    attention = occluder.part_attention(caption.trace.alpha)[:, occluder.real]
    correlation = [rank_correlation(a, f) for a, f in zip(attention, of_real, strict=True)]
    shape = (len(falls), *occluder.shape)
    return Occlusion(falls.reshape(shape), np.array(correlation, np.float64), cover, occluder.part)


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


def _covered(pixels: np.ndarray, grid: Grid, cover: str) -> np.ndarray:
    """Return the input with all of it covered; see `Input.pixels` for its shapes."""
    if pixels.ndim == 3:  # a picture
        return _mean(pixels, (1, 2)) if cover == "mean" else _blurred(pixels)
    if grid.axes[0] != "frames":
        return _mean(pixels, (1, 2, 3)) if cover == "mean" else _smeared(pixels)
    if cover == "blur":
        return _blurred(pixels.reshape(-1, *pixels.shape[2:])).reshape(pixels.shape)
    real = pixels[: len(grid.spans)]  # frames of padding are black and do not count
    return np.broadcast_to(real.mean((0, 2, 3), keepdims=True), pixels.shape)


def _mean(pixels: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(pixels.mean(axes, keepdims=True), pixels.shape)


def _blurred(planes: np.ndarray) -> np.ndarray:
    """Blur (n, S, S) planes beyond recognition."""
    # Pillow has no Gaussian for planes of 32 bits; shrinking to a few pixels and enlarging again
    # blurs as much.
    few = (_BLURRED_SIDE, _BLURRED_SIDE)
    images = [Image.fromarray(plane) for plane in np.ascontiguousarray(planes)]
    blurred = [
        image.resize(few, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)
        for image in images
    ]
    return np.stack([np.asarray(image) for image in blurred])


def _smeared(voxels: np.ndarray) -> np.ndarray:
    """Blur (1, slices, rows, cols) beyond recognition along all three axes."""
    for axis in (1, 2, 3):
        points = voxels.shape[axis]
        few = min(_BLURRED_SIDE, points)
        block = np.arange(points) * few // points
        means = np.eye(few)[block].T / np.bincount(block)[:, None]  # (few, points)
        centred = ((np.arange(points) + 0.5) * few / points - 0.5).clip(0, few - 1)
        between = np.clip(1 - np.abs(centred[:, None] - np.arange(few)), 0, None)
        blurred = np.tensordot(between @ means, voxels, (1, axis))
        voxels = np.moveaxis(blurred, 0, axis)
    return np.ascontiguousarray(voxels, dtype=np.float32)


@dataclass(frozen=True)
class Curves:
    """Curves of one caption's T words over S + 1 shares of the picture, from none to all.

    The orders of the parts are "attention" (by alpha), "occlusion" (by the fall of the word's
    log-probability), "random" and "middle" (from the middle outwards).

    Attributes:
        shares: (S + 1,) share of real cells or frames covered (deletion) or uncovered (insertion).
        deletion: (T, S + 1) p(word) by order.
        insertion: (T, S + 1) p(word) by order.
    """

    shares: np.ndarray
    deletion: dict[str, np.ndarray]
    insertion: dict[str, np.ndarray]

    def areas(self, kind: str) -> dict[str, np.ndarray]:
        """Return the area under each curve of a kind, (T,) by order; p(word) lies in 0..1."""
        curves: dict[str, np.ndarray] = getattr(self, kind)
        return {name: np.trapezoid(p, self.shares, axis=1) for name, p in curves.items()}


def deletion_and_insertion(
    captioner: Captioner,
    caption: Caption,
    *,
    falls: np.ndarray | None = None,
    steps: int = 8,
    draws: int = 4,
    seed: int = 0,
    cover: str = "mean",
) -> Curves:
    """Measure p of every word while parts are covered (deletion) and uncovered (insertion).

    Args:
        captioner: the model of the caption.
        caption: with its picture.
        falls: (T, *grid) of `occlude`; without it the order "occlusion" is left out.
        steps: S equal shares.
        draws: random orders, whose curves are averaged.
        seed: seed of the random orders.
        cover: see `regard.faithfulness.occlusion.COVERS`.

    Raises:
        ConfigError: see `Occluder`.
    """
    occluder = Occluder(captioner, caption, cover=cover)
    parts, words, real = math.prod(occluder.shape), len(caption.words), occluder.real
    counts = np.round(np.linspace(0, len(real), steps + 1)).astype(int)
    rng = np.random.default_rng(seed)
    # An order is a permutation of the real parts, by their number among them.
    orders = {"attention": _descending(occluder.part_attention(caption.trace.alpha)[:, real])}
    if falls is not None:
        orders["occlusion"] = _descending(falls.reshape(words, parts)[:, real])
    shared = {
        "random": np.stack([rng.permutation(len(real)) for _ in range(draws)]),
        "middle": np.argsort(_off_middle(occluder.shape)[real], kind="stable")[None],
    }
    deletion: dict[str, np.ndarray] = {}
    insertion: dict[str, np.ndarray] = {}
    for name, order in (orders | shared).items():
        covered = np.zeros((len(order), len(counts), parts), bool)
        covered[..., real] = _first(order, counts)
        for curves, visible in ((deletion, ~covered), (insertion, covered)):
            p = np.exp(occluder.read(visible.reshape(-1, parts)).logprobs)
            p = p.reshape(*visible.shape[:2], words)  # (orders, S + 1, T)
            own = p[np.arange(words), :, np.arange(words)] if name in orders else p.mean(0).T
            curves[name] = own
    return Curves(counts / len(real), deletion, insertion)


def _descending(values: np.ndarray) -> np.ndarray:
    """Return (T, P): the parts of each row in falling order."""
    return np.argsort(-values, axis=1, kind="stable")


def _off_middle(shape: tuple[int, ...]) -> np.ndarray:
    """Return (P,): the distance of each part from the middle."""
    places = np.indices(shape).reshape(len(shape), -1).T
    return np.abs((places + 0.5) / shape - 0.5).max(axis=1)


def _first(order: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return (orders, counts, R) bool: the first `count` real parts of each order."""
    rank = np.argsort(order, axis=1)  # of every part in the order
    return rank[:, None, :] < counts[:, None]
