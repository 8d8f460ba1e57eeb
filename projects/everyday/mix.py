"""The mix that the decoder is trained on: captions in one style, and pseudo-pictures.

Three kinds of pictures have captions: photographs with five each (Flickr8k), textbook photographs
with one alt text, and pictures with a label, of which short captions are made. Many more captions
come without their pictures. For each of those a pseudo-picture is put together from cells: a
picture that shows most of what the caption names, and rectangles of others that show the rest,
around the cell that is most like the concept. The decoder so learns the grammar of everyday
captions with cells that show what they name.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from projects.everyday.concept_words import ConceptWords
from projects.everyday.encode import places, read_labels
from projects.everyday.naming import Cells, NamedPictures
from regard import DatasetError
from regard.data import load_dataset
from regard.media import digest_of
from regard.text.vocabulary import BY_SOUND, Vocabulary, build_vocabulary, words_of

T = TypeVar("T")
LONGEST = 20  # words of a training caption
MIN_COUNT = 4  # rarer words become <unk>
_LEAST_OF_ALT_TEXT, _LEAST_OF_TEXT = 4, 5  # words; shorter ones are headings
_SURE = 2  # captions of a picture that must name a concept for it to lend cells
_CANDIDATES = 150  # pictures looked at for each concept of a caption
_BEST = 6  # of which one is drawn, so that a caption sees other pictures every time
_FOREIGN = 0.15  # weight of what a picture shows and the caption does not name
_MOST_PASTES = 3
_PASTED = (2 / 7, 4 / 7)  # shortest and longest side of a rectangle in shares of the grid's


@dataclass(frozen=True)
class Captioned:
    """A picture of the mix.

    Attributes:
        kind: "flickr8k", "general" or "labels".
        digest: its key in the store.
        captions: tokens of each, merged (`ConceptWords.merged`).
        concepts: what it lends cells for.
    """

    kind: str
    digest: str
    captions: tuple[tuple[str, ...], ...]
    concepts: frozenset[str]


class Paste(NamedTuple):
    """A rectangle of cells: from a picture's `source` (row, col) to `target`, of `size` cells."""

    picture: Captioned
    source: tuple[int, int]
    target: tuple[int, int]
    size: tuple[int, int]


class Collage(NamedTuple):
    """The plan of a pseudo-picture."""

    base: Captioned
    pastes: tuple[Paste, ...]


@dataclass(frozen=True)
class Batch:
    """Pictures and their captions; each picture has the same number of consecutive captions."""

    cells: Cells
    captions: list[Sequence[str]]


@dataclass(frozen=True)
class Sizes:
    """How many pictures of each kind a step reads.

    The defaults are 100 captions of 20 photographs, in one pass, and 88 pictures with a caption
    each in the other, of which 64 are pseudo-pictures: two passes of about the same cost.
    """

    described: int = 20
    texts: int = 64
    general: int = 16
    labels: int = 8


def read_pictures(data: Path, words: ConceptWords) -> list[Captioned]:
    """Read the training pictures of all kinds, with cleaned captions.

    Textbook pictures whose alt text names a person or place by name are left out.

    Raises:
        DatasetError: a set cannot be read.
    """
    named = _with_proper_names(places(data, "general")[0])
    found: list[Captioned] = []
    for kind in ("flickr8k", "general"):
        for item in load_dataset(*places(data, kind)).split("train"):
            texts = [words_of(text) for text in item.captions]
            if kind == "general" and (
                len(texts[0]) < _LEAST_OF_ALT_TEXT or Path(item.file).name in named
            ):
                continue
            captions = [words.merged(text)[:LONGEST] for text in texts]
            digest = item.digest or digest_of(item.file)
            found.append(captioned(kind, digest, captions, words))
    for picture in read_labels(data):
        if (concept := words.of_label(picture.label)) is not None:
            captions = label_captions(concept, words)
            digest = digest_of(picture.file)
            made = Captioned("labels", digest, tuple(captions), frozenset([concept]))
            found.append(made)
    return found


def captioned(
    kind: str, digest: str, captions: Sequence[Sequence[str]], words: ConceptWords
) -> Captioned:
    """Return a picture with merged captions; it shows what enough of them name."""
    count = Counter(concept for text in captions for concept in words.named(text))
    sure = min(_SURE, len(captions))
    concepts = frozenset(concept for concept, times in count.items() if times >= sure)
    return Captioned(kind, digest, tuple(map(tuple, captions)), concepts)


def label_captions(concept: str, words: ConceptWords) -> list[tuple[str, ...]]:
    """Return short captions of a picture that shows one concept, as tokens."""
    one, many = words.forms[words.index[concept]]
    if one == many:
        return [("some", one), ("a", "close", "up", "of", "some", one)]
    starts = ("a", "there is a", "a picture of a", "a close up of a")
    return [(*start.split(), one) for start in starts]


def _with_proper_names(path: Path) -> set[str]:
    """Return the files whose alt text names a person or place (`proper_names` of the data)."""
    try:
        images = json.loads(path.read_text("utf-8"))["images"]
        return {image["filename"] for image in images if image.get("proper_names")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read as Karpathy's JSON: {error!r}.") from error


def read_texts(path: Path, words: ConceptWords) -> list[list[str]]:
    """Read captions without pictures, one a line, as merged tokens.

    Very short and very long ones are left out, and those with digits.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"the captions {path} cannot be read: {error}.") from error
    texts = [words.merged(words_of(line)) for line in lines]
    return [
        text
        for text in texts
        if _LEAST_OF_TEXT <= len(text) <= LONGEST
        and not any(letter.isdigit() for word in text for letter in word)
    ]


def vocabulary_of(
    pictures: Iterable[Captioned], texts: Iterable[Sequence[str]], words: ConceptWords
) -> Vocabulary:
    """Return the vocabulary: words seen often enough, and both forms of every concept."""
    captions = [*(text for picture in pictures for text in picture.captions), *texts]
    known = build_vocabulary(captions, min_count=MIN_COUNT, max_words=10**6).words
    forms = (form for pair in words.forms for form in pair)
    return Vocabulary(tuple(dict.fromkeys((*known, *forms))), articles=BY_SOUND)


class Mix:
    """Draws batches of pictures and pseudo-pictures."""

    def __init__(
        self,
        pictures: Sequence[Captioned],
        texts: Sequence[Sequence[str]],
        named: NamedPictures,
        words: ConceptWords,
        *,
        sizes: Sizes | None = None,
        seed: int = 0,
    ) -> None:
        """Index what each picture shows.

        Args:
            pictures: of all kinds.
            texts: captions without pictures.
            named: the cells of the pictures.
            words: the concepts.
            sizes: pictures of a step.
            seed: seed of all draws.

        Raises:
            DatasetError: no text names a concept that a picture shows, or photographs have
                different numbers of captions.
        """
        self.sizes = sizes or Sizes()
        self._named, self._words = named, words
        self._rng = random.Random(seed)
        self._sources: dict[str, list[Captioned]] = defaultdict(list)
        for picture in pictures:
            for concept in sorted(picture.concepts):
                self._sources[concept].append(picture)
        self._rarity = {
            concept: math.log(len(pictures) / len(sources))
            for concept, sources in self._sources.items()
        }
        usable = [text for text in texts if any(c in self._sources for c in words.named(text))]
        if self.sizes.texts and not usable:
            raise DatasetError(
                f"none of the {len(texts)} captions without pictures names a concept that a "
                "picture shows, so no pseudo-picture can be made. Check the captions and the list "
                "of concepts."
            )
        self._texts = self._cycle(usable)
        if len({len(p.captions) for p in pictures if p.kind == "flickr8k"}) > 1:
            raise DatasetError(
                "the photographs have different numbers of captions; a batch needs the same "
                "number of each. Cut them to the smallest number."
            )
        self._kinds = {
            kind: self._cycle([p for p in pictures if p.kind == kind])
            for kind in ("flickr8k", "general", "labels")
        }

    def _cycle(self, items: Sequence[T]) -> Iterator[T]:
        """Yield items again and again, each time in another order."""
        while items:
            yield from self._rng.sample(items, len(items))

    def _draw(self, kind: str, count: int) -> list[Captioned]:
        """Draw pictures of a kind.

        Raises:
            DatasetError: there is none.
        """
        drawn = [picture for _, picture in zip(range(count), self._kinds[kind], strict=False)]
        if len(drawn) < count:
            raise DatasetError(f"the mix has no pictures of the kind {kind!r}, and {count} a step.")
        return drawn

    def described(self) -> Batch:
        """Return photographs, each with all of its captions (of the same number)."""
        pictures = self._draw("flickr8k", self.sizes.described)
        cells = [self._named.cells(picture.digest) for picture in pictures]
        return Batch(stacked(cells), [text for picture in pictures for text in picture.captions])

    def others(self) -> Batch:
        """Return textbook, labelled and pseudo-pictures, each with one caption."""
        pictures = self._draw("general", self.sizes.general)
        pictures += self._draw("labels", self.sizes.labels)
        cells = [self._named.cells(picture.digest) for picture in pictures]
        captions: list[Sequence[str]] = [self._rng.choice(p.captions) for p in pictures]
        for _, text in zip(range(self.sizes.texts), self._texts, strict=False):
            cells.append(self.paste(self.plan(text)))
            captions.append(text)
        return Batch(stacked(cells), captions)

    def plan(self, text: Sequence[str]) -> Collage:
        """Plan a pseudo-picture for a caption that names a concept which a picture shows."""
        concepts = self._words.named(text)
        base = self._base(set(concepts))
        left = [c for c in concepts if c not in base.concepts and c in self._sources]
        return Collage(base, tuple(self._plan_paste(concept) for concept in left[:_MOST_PASTES]))

    def _base(self, concepts: set[str]) -> Captioned:
        """Draw one of the pictures that show most of the concepts, the rare ones above all."""
        scores: dict[str, float] = defaultdict(float)
        found: dict[str, Captioned] = {}
        for concept in sorted(concepts):
            sources = self._sources.get(concept, [])
            for picture in self._rng.sample(sources, min(_CANDIDATES, len(sources))):
                scores[picture.digest] += self._rarity[concept]
                found[picture.digest] = picture
        for digest, picture in found.items():
            foreign = sum(self._rarity[c] for c in picture.concepts - concepts)
            scores[digest] -= _FOREIGN * foreign
        best = sorted(found, key=lambda digest: -scores[digest])[:_BEST]
        return found[self._rng.choice(best)]

    def _plan_paste(self, concept: str) -> Paste:
        """Choose a rectangle around the cell of a picture that is most like a concept."""
        side, rng = self._named.side, self._rng
        picture = rng.choice(self._sources[concept])
        shortest, longest = (max(1, round(share * side)) for share in _PASTED)
        size = rng.randint(shortest, longest), rng.randint(shortest, longest)
        peak = self._named.peak(picture.digest, self._words.index[concept])
        row, col = (
            min(max(at - extent // 2, 0), side - extent)
            for at, extent in zip(peak, size, strict=True)
        )
        target = rng.randint(0, side - size[0]), rng.randint(0, side - size[1])
        return Paste(picture, (row, col), target, size)

    def paste(self, collage: Collage) -> Cells:
        """Return the cells of a pseudo-picture."""
        side = self._named.side
        made = [x.copy().reshape(side, side, -1) for x in self._named.cells(collage.base.digest)]
        for picture, (row, col), (to_row, to_col), (rows, cols) in collage.pastes:
            for ours, theirs in zip(made, self._named.cells(picture.digest), strict=True):
                cut = theirs.reshape(side, side, -1)[row : row + rows, col : col + cols]
                ours[to_row : to_row + rows, to_col : to_col + cols] = cut
        return Cells(*(x.reshape(side * side, -1) for x in made))

    def half(self, batch: Batch) -> Batch:
        """Return a batch with a random half of the cells, the same ones of all pictures."""
        count = batch.cells.vectors.shape[1]
        kept = sorted(self._rng.sample(range(count), count // 2))
        return Batch(Cells(*(x[:, kept] for x in batch.cells)), batch.captions)


def stacked(cells: Sequence[Cells]) -> Cells:
    """Stack the cells of N pictures to (N, L, ...)."""
    return Cells(*(np.stack(arrays) for arrays in zip(*cells, strict=True)))
