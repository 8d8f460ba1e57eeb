"""What is stored of a picture is what a pointer names in it; scores of boxes by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from projects.everyday.bank import ConceptHead
from projects.everyday.mix import Captioned
from projects.everyday.naming import NamedPictures, box_scores, pointer_of, read_boxes
from projects.everyday.tests.coloured_toys import SIDE, WORDS
from regard import DatasetError


def test_stored_names_are_the_pointers(
    named: NamedPictures, head: ConceptHead, pictures: list[Captioned]
) -> None:
    pointer = pointer_of(head.bank())
    for picture in pictures[::7]:
        cells = named.cells(picture.digest)
        vectors = torch.from_numpy(cells.vectors.astype(np.float32))[None]
        with torch.no_grad():
            expected = pointer.naming(vectors, torch.ones(1, SIDE**2, dtype=torch.bool))[0]
        places = torch.from_numpy(cells.concepts.astype(np.int64))
        shares = torch.from_numpy(cells.shares.astype(np.float32))
        found = torch.zeros_like(expected).scatter(1, places, shares)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        mixed = torch.from_numpy(cells.mixed.astype(np.float32))
        torch.testing.assert_close(mixed, expected @ pointer.vectors, atol=1e-3, rtol=1e-2)


def test_the_peak_of_a_concept_is_where_it_is(
    named: NamedPictures, pictures: list[Captioned]
) -> None:
    labels = [p for p in pictures if p.kind == "labels"]
    for number, picture in enumerate(labels):
        (concept,) = picture.concepts
        row, col = named.peak(picture.digest, WORDS.index[concept])
        at = number + number // 3  # every fourth picture shows nothing and is not among these
        assert row in (1, 2)
        assert col in (at % 3, at % 3 + 1)


def test_missing_names_are_errors(named: NamedPictures, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not among those that the bank named"):
        named.cells("f" * 64)
    with pytest.raises(DatasetError, match="cannot be read.*command name"):
        NamedPictures(named.store, tmp_path)


class Fixed(nn.Module):
    """Gives the scores that it was made with."""

    def scores(self, cells: Tensor) -> Tensor:
        return cells


def test_box_scores_by_hand() -> None:
    # Three pictures of 2×2 cells and two concepts; the peak of "ball" lies in cells 0, 3, 1.
    scores = torch.zeros(3, 4, 4)
    scores[0, 0, 0], scores[1, 3, 0], scores[2, 1, 0] = 3, 2, 1
    half = (0.0, 0.0, 0.5, 1.0)  # cells 0 and 2
    tiny = (0.1, 0.1, 0.01, 0.01)  # holds no centre of a cell
    boxes = [{"ball": [half]}, {"box": [tiny]}, {"ball": [half]}]
    found = box_scores(Fixed(), scores, boxes, WORDS, 2)  # type: ignore[arg-type]
    # "ball" has ranks 1 and 3; "box" shares one score with all, and stands second
    precision = ((1 + 2 / 3) / 2 + 1 / 2) / 2
    assert found == pytest.approx(
        {"average_precision": precision, "peak": 0.5, "middle": 0.0, "area": 0.5}
    )


def test_boxes_of_unknown_things_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    box = [0.1, 0.2, 0.3, 0.4]
    names = ("beach ball", "sofa")
    path.write_text(json.dumps({"a.png": [{"name": name, "box": box} for name in names]}))
    assert read_boxes(path, ["some/a.png"], WORDS) == [{"ball": [tuple(box)]}]
    with pytest.raises(DatasetError, match="boxes.json cannot be read"):
        read_boxes(path, ["b.png"], WORDS)
