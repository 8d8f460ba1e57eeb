"""Weak labels: pictures and the concepts that captions or a label say they show.

A caption names what people talk about, and a label one thing; neither says where it is, and both
leave much out. How much a concept's absence counts therefore depends on the source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from projects.everyday.concept_words import AMBIGUOUS, ConceptWords
from projects.everyday.encode import VIEW, Labelled, places, read_labels
from regard.data import AnnotationStore, CaptionDataset, load_dataset
from regard.media import digest_of
from regard.text.vocabulary import words_of

_POOL = 2  # 14×14 cells are trained as 7×7, a quarter of the work; they are named as they are
_FIVE_CAPTIONS = 2.5  # two of five captions that name a concept make it sure
_ABSENCE = {"flickr8k": 1.0, "general": 0.3, "labels": 0.5}
"""Weight of concepts that a picture is not said to show: five captions leave little out, one
caption of a textbook and a label leave much."""
_HELD_OUT, _LEAST_HELD = 5, 8  # every fifth picture of labels with eight or more


@dataclass(frozen=True)
class Examples:
    """N pictures and what they are said to show.

    Attributes:
        cells: (N, L, D) float16, annotations.
        targets: (N, C) in 0..1.
        absence: (N, 1), the weight of what is not said.
    """

    cells: Tensor
    targets: Tensor
    absence: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Return the pictures of several sets as one."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def take(self, rows: Sequence[int]) -> Examples:
        """Return some of the pictures."""
        chosen = list(rows)
        return Examples(self.cells[chosen], self.targets[chosen], self.absence[chosen])


def read_examples(
    data: Path, store: AnnotationStore, words: ConceptWords, *, held_out: bool = True
) -> tuple[Examples, Examples]:
    """Read the pictures of all sets that are trained on, and the labelled ones held out of them.

    Args:
        data: the folder of the data.
        store: their annotations.
        words: the concepts.
        held_out: False trains on all, for the bank that the model gets.

    Raises:
        DatasetError: a set or an annotation is missing.
    """
    parts: list[Examples] = []
    for name in ("flickr8k", "general"):
        found = load_dataset(*places(data, name)).split("train")
        captions = [[words_of(text) for text in item.captions] for item in found]
        parts.append(described(annotations_of(store, digests_of(found)), captions, words, name))
    labels = read_labels(data)
    digests = [digest_of(picture.file) for picture in labels]
    train, test = hold_out(labelled(annotations_of(store, digests), labels, words))
    if not held_out:
        train = Examples.joined([train, test])
    return Examples.joined([*parts, train]), test


def weak_labels(data: Path, words: ConceptWords) -> Examples:
    """Return what captions and labels say of all training pictures, without annotations.

    They are in the order of `training_files`. A label that means no concept says nothing of the
    others.

    Raises:
        DatasetError: a set cannot be read.
    """
    parts: list[Examples] = []
    for name in ("flickr8k", "general"):
        found = load_dataset(*places(data, name)).split("train")
        captions = [[words_of(text) for text in item.captions] for item in found]
        parts.append(described(torch.empty(len(found), 0), captions, words, name))
    labels = read_labels(data)
    named = labelled(torch.empty(len(labels), 0), labels, words)
    said = named.targets.any(1, keepdim=True)
    return Examples.joined([*parts, Examples(named.cells, named.targets, named.absence * said)])


def digests_of(dataset: CaptionDataset) -> list[str]:
    """Return the digests of a data set's pictures."""
    return [item.digest or digest_of(item.file) for item in dataset]


def described(
    cells: Tensor, captions: Sequence[Sequence[Sequence[str]]], words: ConceptWords, name: str
) -> Examples:
    """Return pictures with captions as examples.

    Args:
        cells: (N, L, D), pooled.
        captions: tokens of each caption of each picture.
        words: the concepts.
        name: of the set, "flickr8k" (five captions a picture) or "general" (one).
    """
    targets = torch.zeros(len(captions), len(words))
    for row, texts in zip(targets, captions, strict=True):
        for text in texts:
            for concept in {mention.concept for mention in words.mentions(text)}:
                row[words.index[concept]] += 1 / len(texts)
    targets = (targets * (_FIVE_CAPTIONS if name == "flickr8k" else 1)).clamp_max(1)
    targets[:, [words.index[word] for word in AMBIGUOUS if word in words.index]] = 0
    return Examples(cells, targets, torch.full((len(captions), 1), _ABSENCE[name]))


def labelled(cells: Tensor, pictures: Sequence[Labelled], words: ConceptWords) -> Examples:
    """Return pictures with a label each as examples; one that means no concept has no target."""
    targets = torch.zeros(len(pictures), len(words))
    for row, picture in zip(targets, pictures, strict=True):
        if (concept := words.of_label(picture.label)) is not None:
            row[words.index[concept]] = 1
    return Examples(cells, targets, torch.full((len(pictures), 1), _ABSENCE["labels"]))


def hold_out(examples: Examples) -> tuple[Examples, Examples]:
    """Split labelled pictures into those to train on and every fifth of a frequent concept."""
    by_concept: dict[int, list[int]] = defaultdict(list)
    for row, concept in examples.targets.nonzero().tolist():
        by_concept[concept].append(row)
    many = [rows[::_HELD_OUT] for rows in by_concept.values() if len(rows) >= _LEAST_HELD]
    test = {row for rows in many for row in rows}
    train = [row for rows in by_concept.values() for row in rows if row not in test]
    return examples.take(sorted(train)), examples.take(sorted(test))


def annotations_of(
    store: AnnotationStore, digests: Sequence[str], *, pooled: bool = True
) -> Tensor:
    """Read annotations (N, L, D) as float16; pooled: the means of 2×2 cells each."""
    rows, cols = store.key.grid_shape
    found: list[Tensor] = []
    for at in range(0, len(digests), 256):
        vectors, _ = store.read((digest, VIEW) for digest in digests[at : at + 256])
        cells = torch.from_numpy(vectors)
        if pooled:
            grid = cells.float().transpose(1, 2).unflatten(2, (rows, cols))
            cells = functional.avg_pool2d(grid, _POOL).flatten(2).transpose(1, 2).half()
        found.append(cells)
    return torch.cat(found)
