"""Deletion and insertion: does what was looked at most matter most?

Cells, or frames of a clip, are covered from the first in an order to the last (deletion), or
uncovered on a covered input (insertion), and p(word) is followed with the caption before it
fixed. An order that knows what matters makes p fall early and rise early: a small area under the
deletion curve, a large one under the insertion curve. A random order is what uniform attention
gives, all of whose parts are equal; the middle first is what a photographer's habit gives.
A scan's padding is no part of it: nothing is there to be covered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regard.faithfulness.occlusion import Prober
from regard.types import Caption

if TYPE_CHECKING:
    from regard.captioner import Captioner

ORDERS = ("attention", "occlusion", "random", "middle")
"""By alpha; by the fall of the word's log-probability; drawn; from the middle outwards."""


@dataclass(frozen=True)
class Curves:
    """Curves of one caption's T words over S + 1 shares of the picture, from none to all.

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
    """Follow every word of a caption through both experiments.

    Args:
        captioner: the model that said the caption.
        caption: with its picture.
        falls: (T, *grid) of `occlude`; None leaves the order "occlusion" out.
        steps: S, covered in equal shares.
        draws: random orders, whose curves are averaged.
        seed: of the random orders.
        cover: see `regard.faithfulness.occlusion.COVERS`.

    Raises:
        ConfigError: see `Prober`.
    """
    prober = Prober(captioner, caption, cover=cover)
    parts, words, real = math.prod(prober.shape), len(caption.words), prober.real
    counts = np.round(np.linspace(0, len(real), steps + 1)).astype(int)
    draw = np.random.default_rng(seed)
    # Orders are of the real parts, by their number among them.
    orders = {"attention": _descending(prober.looked(caption.trace.alpha)[:, real])}
    if falls is not None:
        orders["occlusion"] = _descending(falls.reshape(words, parts)[:, real])
    shared = {
        "random": np.stack([draw.permutation(len(real)) for _ in range(draws)]),
        "middle": np.argsort(_off_middle(prober.shape)[real], kind="stable")[None],
    }
    deletion: dict[str, np.ndarray] = {}
    insertion: dict[str, np.ndarray] = {}
    for name, order in (orders | shared).items():
        covered = np.zeros((len(order), len(counts), parts), bool)
        covered[..., real] = _first(order, counts)
        for curves, kept in ((deletion, ~covered), (insertion, covered)):
            p = np.exp(prober.read(kept.reshape(-1, parts)).logprobs)
            p = p.reshape(*kept.shape[:2], words)  # (orders, S + 1, T)
            own = p[np.arange(words), :, np.arange(words)] if name in orders else p.mean(0).T
            curves[name] = own
    return Curves(counts / len(real), deletion, insertion)


def _descending(values: np.ndarray) -> np.ndarray:
    """Return (T, P): the parts of each row, the largest first."""
    return np.argsort(-values, axis=1, kind="stable")


def _off_middle(shape: tuple[int, ...]) -> np.ndarray:
    """Return (P,): how far each part lies from the middle."""
    places = np.indices(shape).reshape(len(shape), -1).T
    return np.abs((places + 0.5) / shape - 0.5).max(axis=1)


def _first(order: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return (orders, counts, R) bool: the first `count` real parts of each order."""
    rank = np.argsort(order, axis=1)  # of every part in the order
    return rank[:, None, :] < counts[:, None]
