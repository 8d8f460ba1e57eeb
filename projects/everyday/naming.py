"""What the bank names in every cell of the training pictures, computed once, and how well it does.

Training reads it from files instead of naming 196 cells a picture in every step. A pasted cell of a
pseudo-picture so keeps the names that it has in its own picture (`projects.everyday.mix`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from projects.everyday.bank import Bank, ConceptHead
from projects.everyday.concept_words import ConceptWords
from projects.everyday.encode import VIEW
from projects.everyday.weak_labels import Examples, annotations_of
from regard import DatasetError
from regard.config import DecoderConfig
from regard.data import AnnotationStore
from regard.model.pointer import Pointer

STRONGEST = 12
"""Concepts of a cell that are kept; the shares of the others are left out of p(w | a_i)."""
_BATCH = 32
_LEAST_AREA = 0.01  # of the grid: a smaller box may hold no cell's centre


class Cells(NamedTuple):
    """The cells of a picture as training reads them, or stacked those of N: (N, L, ...).

    Attributes:
        vectors: (L, D), annotations.
        mixed: (L, K), the concepts' vectors weighted by p(concept | a_i).
        concepts: (L, M) int16, the strongest concepts of each cell.
        shares: (L, M), their p(concept | a_i).
    """

    vectors: np.ndarray
    mixed: np.ndarray
    concepts: np.ndarray
    shares: np.ndarray


class NamedPictures:
    """The annotations of a store, and what a bank names in them.

    Attributes:
        store: the annotations.
        side: rows and columns of the grid.
    """

    def __init__(self, store: AnnotationStore, folder: Path) -> None:
        """Open what `name_pictures` wrote.

        Raises:
            DatasetError: it is missing or damaged.
        """
        self.store = store
        self.side = store.key.grid_shape[0]
        try:
            digests: list[str] = json.loads((folder / "pictures.json").read_text("utf-8"))
            self._mixed, self._concepts, self._shares, self._peaks = (
                np.load(folder / f"{name}.npy", mmap_mode="r")
                for name in ("mixed", "concepts", "shares", "peaks")
            )
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"what the bank names cannot be read from {folder}: {error}. Write it with the "
                "command name."
            ) from error
        self._rows = {digest: row for row, digest in enumerate(digests)}

    def cells(self, digest: str) -> Cells:
        """Return the cells of a picture.

        Raises:
            DatasetError: it was not named.
        """
        row = self._row(digest)
        vectors = self.store.read([(digest, VIEW)])[0][0]
        return Cells(vectors, self._mixed[row], self._concepts[row], self._shares[row])

    def peak(self, digest: str, concept: int) -> tuple[int, int]:
        """Return row and column of the cell that is most like a concept."""
        return divmod(int(self._peaks[self._row(digest), concept]), self.side)

    def _row(self, digest: str) -> int:
        if digest not in self._rows:
            raise DatasetError(
                f"the picture {digest[:12]}… is not among those that the bank named. Run the "
                "command name again."
            )
        return self._rows[digest]


@torch.no_grad()
def name_pictures(
    store: AnnotationStore,
    digests: Sequence[str],
    bank: Bank,
    folder: Path,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write what a bank names in pictures, as memory maps, for `NamedPictures`.

    Args:
        store: holds their annotations.
        digests: the pictures.
        bank: the concepts.
        folder: created if it does not exist; files of an earlier run are replaced.
        report: is called with (pictures done, pictures in all).

    Raises:
        DatasetError: the store lacks a picture.
    """
    pointer = pointer_of(bank)
    count, (concepts, size) = len(digests), bank.vectors.shape
    cells = int(np.prod(store.key.grid_shape))
    strongest = min(STRONGEST, concepts)
    shapes = {
        "mixed": (np.float16, (count, cells, size)),
        "concepts": (np.int16, (count, cells, strongest)),
        "shares": (np.float16, (count, cells, strongest)),
        "peaks": (np.int16, (count, concepts)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    maps = [
        open_memmap(folder / f"{name}.npy", "w+", kind, shape)
        for name, (kind, shape) in shapes.items()
    ]
    for at in range(0, count, _BATCH):
        part = digests[at : at + _BATCH]
        vectors = annotations_of(store, part, pooled=False).float()
        mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
        named = pointer.naming(vectors, mask)  # (N, L, C)
        shares, places = named.topk(strongest, -1)
        looks, _ = pointer.likeness(vectors, mask)
        peaks = (looks @ pointer.vectors.T).argmax(1)
        for array, value in zip(
            maps, (named @ pointer.vectors, places, shares, peaks), strict=True
        ):
            array[at : at + len(part)] = value.numpy()
        report(at + len(part), count)
    for array in maps:
        array.flush()
    (folder / "pictures.json").write_text(json.dumps(list(digests)), "utf-8")


def pointer_of(bank: Bank) -> Pointer:
    """Return a pointer with a bank whose words have no place in a vocabulary yet."""
    concepts, size = bank.vectors.shape
    config = DecoderConfig(concepts=concepts, concept_dim=size)
    pointer = Pointer(config, bank.cell.shape[1], 2 * concepts)
    bank.fill(pointer, torch.arange(2 * concepts).view(concepts, 2))
    return pointer.eval()


# How well the bank names


@torch.no_grad()
def held_out_accuracy(head: ConceptHead, examples: Examples, ranks: int = 1) -> float:
    """Return the share of pictures whose concept is among the first `ranks`."""
    logits = torch.cat([head(part.float()) for part in examples.cells.split(64)])
    first = logits.topk(ranks, -1).indices
    return float((first == examples.targets.argmax(1, keepdim=True)).any(1).float().mean())


Boxes = Mapping[str, Sequence[tuple[float, float, float, float]]]
"""Boxes (x, y, width, height) of a picture in shares of its sides, by concept."""


@torch.no_grad()
def box_scores(
    head: ConceptHead, cells: Tensor, boxes: Sequence[Boxes], words: ConceptWords, side: int = 14
) -> dict[str, float]:
    """Score what is named, and where, against boxes of N pictures.

    Args:
        head: in evaluation mode.
        cells: (N, L, D), not pooled.
        boxes: of each picture.
        words: the concepts.
        side: rows and columns of the grid.

    Returns:
        "average_precision" of the concepts that have boxes, averaged over them; of the pairs of a
        picture and a concept in it the share whose strongest cell lies in a box of it ("peak"),
        whose middle cell does ("middle"), and the mean share of cells that do ("area").
    """
    scores = torch.cat([head.scores(part.float()) for part in cells.split(16)])
    pictures = scores.logsumexp(1)
    precisions: list[float] = []
    pairs: list[tuple[float, float, float]] = []
    for concept in sorted({name for one in boxes for name in one}):
        place = words.index[concept]
        shown = np.array([concept in one for one in boxes])
        right = shown[np.argsort(-pictures[:, place].numpy(), kind="stable")]
        found = np.cumsum(right) / np.arange(1, len(right) + 1)
        precisions.append(float(found[right].mean()))
        for picture in map(int, np.flatnonzero(shown)):
            inside = _inside(boxes[picture][concept], side)
            if inside.mean() >= _LEAST_AREA:
                peak = int(scores[picture, :, place].argmax())
                middle = inside[side // 2, side // 2]
                pairs.append((float(inside.flat[peak]), float(middle), float(inside.mean())))
    names = ("peak", "middle", "area")
    means = zip(names, np.mean(pairs, axis=0).tolist(), strict=True)
    return {"average_precision": float(np.mean(precisions))} | dict(means)


def _inside(boxes: Sequence[tuple[float, float, float, float]], side: int) -> np.ndarray:
    """Return which cells have their centre in one of the boxes, (side, side) bool."""
    centres = (np.arange(side) + 0.5) / side
    found = np.zeros((side, side), bool)
    for x, y, width, height in boxes:
        rows = (centres >= y) & (centres <= y + height)
        cols = (centres >= x) & (centres <= x + width)
        found |= rows[:, None] & cols
    return found


def read_boxes(path: Path, files: Sequence[str], words: ConceptWords) -> list[Boxes]:
    """Read the boxes of pictures: a JSON object of file -> [{"name", "box": [x, y, w, h]}].

    Names that mean no concept are left out.

    Raises:
        DatasetError: the file cannot be read or lacks a picture.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        found: list[Boxes] = []
        for file in files:
            boxes: dict[str, list[tuple[float, float, float, float]]] = {}
            for one in values[Path(file).name]:
                if (concept := words.of_label(one["name"])) is not None:
                    x, y, width, height = map(float, one["box"])
                    boxes.setdefault(concept, []).append((x, y, width, height))
            found.append(boxes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"the boxes {path} cannot be read: {error!r}.") from error
    return found
