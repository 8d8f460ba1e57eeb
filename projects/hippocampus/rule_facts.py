"""How true are the facts that captions of hippocampus scans state, and where did they look?

A caption counts for a fact where it states it; what is not stated, and a fact of which two
different things are said, is not right. `baseline_captions` makes texts to compare with.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from projects.hippocampus.data import FactBook
from projects.hippocampus.facts import ANTERIOR, FACTS, POSTERIOR, Marked, majorities
from projects.hippocampus.text import caption, stated_facts
from projects.hippocampus.volume_pointing import Solid, peak_distance
from regard.metrics.pointing import Pointing
from regard.types import Caption, Grid

SPOKEN = {
    "anterior": (ANTERIOR,),
    "posterior": (POSTERIOR,),
    "hippocampus": (ANTERIOR, POSTERIOR),
}
"""Words that name a part, and the labels of what they name."""


@dataclass(frozen=True)
class FactScore:
    """How often a fact was stated and right.

    Attributes:
        scans: captioned.
        stated: of those.
        right: of those.
    """

    scans: int
    stated: int
    right: int

    @property
    def accuracy(self) -> float:
        """Right ones among all scans; not to state a fact is not to know it."""
        return self.right / self.scans


def score_facts(captions: Mapping[str, str], book: FactBook) -> dict[str, FactScore]:
    """Return each fact's score.

    Args:
        captions: a text by the name of the scan.
        book: what is true of them.
    """
    said = {key: stated_facts(text, book.thresholds) for key, text in captions.items()}
    return {
        fact.name: FactScore(
            len(said),
            sum(fact.name in of_scan for of_scan in said.values()),
            sum(book.classes[key][fact.name] == facts.get(fact.name)
                for key, facts in said.items()),
        )
        for fact in FACTS
    }  # fmt: skip


def mean_accuracy(scores: Mapping[str, FactScore]) -> float:
    """Return the mean over facts."""
    return float(np.mean([score.accuracy for score in scores.values()]))


def majority_text(book: FactBook, training: Sequence[str]) -> str:
    """Return a caption that states every fact's most frequent class among training scans."""
    most = {name: found for name, (found, _) in majorities(
        book.classes[key] for key in training).items()}  # fmt: skip
    return caption(most, book.thresholds, random.Random(0))


def nearest_texts(
    vectors: Mapping[str, np.ndarray],
    training: Sequence[str],
    wanted: Sequence[str],
    references: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """Return for each wanted scan a caption of the training scan that is nearest to it.

    Args:
        vectors: of every scan: its voxels, its size, its features.
        training: names of the training scans.
        wanted: names of the scans to caption.
        references: captions of the training scans.
    """
    known = np.stack([vectors[key].reshape(-1) for key in training])
    texts: dict[str, str] = {}
    for key in wanted:
        distances = ((known - vectors[key].reshape(-1)) ** 2).sum(1)
        texts[key] = references[training[int(distances.argmin())]][0]
    return texts


@dataclass(frozen=True)
class Aim:
    """One spoken part and where the decoder looked for it.

    Attributes:
        word: one of `SPOKEN`.
        pointing: attention against the part's mask.
        distance: millimetres from the peak to the part.
        prior: a map that knows the training masks and nothing of this scan, likewise.
    """

    word: str
    pointing: Pointing
    distance: float
    prior: Pointing


def aims(
    made: Caption, marked: Marked, priors: Mapping[str, np.ndarray]
) -> list[Aim]:  # fmt: skip
    """Return where a caption's words looked, for each word that names a part.

    Args:
        made: with its trace.
        marked: the scan and its mask.
        priors: a map (L,) for each of `SPOKEN`; see `mask_priors`.
    """
    found: list[Aim] = []
    masks = {word: np.isin(marked.mask, labels) for word, labels in SPOKEN.items()}
    solids = {w: Solid.of_mask(m, marked.spacing, made.grid) for w, m in masks.items()}
    for word in made.words:
        if word.text in SPOKEN:
            solid = solids[word.text]
            distance = peak_distance(word.alpha, made.grid, masks[word.text], marked.spacing)
            prior = solid.pointing(priors[word.text])
            found.append(Aim(word.text, solid.pointing(word.alpha), distance, prior))
    return found


def mask_priors(training: Sequence[tuple[Marked, Grid]]) -> dict[str, np.ndarray]:
    """Return for each of `SPOKEN` the mean of the training masks on the grid, summing to 1."""
    priors: dict[str, np.ndarray] = {}
    for word, labels in SPOKEN.items():
        shares = [
            Solid.of_mask(np.isin(marked.mask, labels), marked.spacing, grid).shares
            for marked, grid in training
        ]
        mean = np.mean(shares, axis=0)
        priors[word] = mean / mean.sum()
    return priors
