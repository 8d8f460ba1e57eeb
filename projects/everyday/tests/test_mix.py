"""Captions are cleaned to one style; pseudo-pictures show what their captions name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from projects.everyday.mix import (
    Captioned,
    Collage,
    Mix,
    Paste,
    Sizes,
    captioned,
    label_captions,
    read_pictures,
    read_texts,
    vocabulary_of,
)
from projects.everyday.naming import NamedPictures
from projects.everyday.tests.coloured_toys import SIDE, WORDS
from regard import DatasetError

SIZES = Sizes(described=4, texts=5, general=2, labels=3)


@pytest.fixture
def mix(data: Path, pictures: list[Captioned], named: NamedPictures) -> Mix:
    texts = read_texts(data / "coco_text" / "captions.txt", WORDS)
    return Mix(pictures, texts, named, WORDS, sizes=SIZES)


def test_training_pictures_are_read_without_proper_names(pictures: list[Captioned]) -> None:
    kinds = [picture.kind for picture in pictures]
    assert [kinds.count(kind) for kind in ("flickr8k", "general", "labels")] == [18, 5, 27]
    assert pictures[0].captions == (("a", "ball", "in", "the", "picture"),) * 5
    assert pictures[0].concepts == {"ball"}
    assert pictures[-1].concepts == {"fire hydrant"}


def test_one_of_several_captions_is_not_enough() -> None:
    texts = [["a", "ball"], ["balls", "and", "a", "box"], ["snow"]]
    assert captioned("flickr8k", "x", texts, WORDS).concepts == {"ball"}
    assert captioned("general", "x", texts[:1], WORDS).concepts == {"ball"}


def test_labels_make_captions_with_an_article_where_one_fits() -> None:
    assert ("a", "fire hydrant") in label_captions("fire hydrant", WORDS)
    assert all("a" not in text[-2:] and "some" in text for text in label_captions("snow", WORDS))


def test_captions_without_pictures_are_cleaned(data: Path) -> None:
    texts = read_texts(data / "coco_text" / "captions.txt", WORDS)
    joined = "a ball next to a hydrant and a box in the picture"
    assert texts == [joined.split()] * 3  # neither the short one nor the one with digits


def test_the_vocabulary_has_both_forms_of_every_concept(pictures: list[Captioned]) -> None:
    vocabulary = vocabulary_of(pictures, [["rare", "words"]], WORDS)
    assert {form for pair in WORDS.forms for form in pair} <= set(vocabulary.words)
    assert "rare" not in vocabulary.words
    assert vocabulary.articles == "by sound"


def test_a_collage_pastes_around_the_peak(
    mix: Mix, named: NamedPictures, pictures: list[Captioned]
) -> None:
    balls, boxes = (
        next(p for p in pictures if p.kind == "labels" and p.concepts == {name})
        for name in ("ball", "box")
    )
    paste = Paste(boxes, (1, 0), (2, 2), (2, 1))
    made = mix.paste(Collage(balls, (paste,)))
    base, other = named.cells(balls.digest), named.cells(boxes.digest)
    expected = base.vectors.reshape(SIDE, SIDE, -1).copy()
    expected[2:4, 2:3] = other.vectors.reshape(SIDE, SIDE, -1)[1:3, :1]
    assert np.array_equal(made.vectors.reshape(SIDE, SIDE, -1), expected)
    assert np.array_equal(made.concepts[10], other.concepts[4])
    again = mix.paste(Collage(balls, ()))
    assert all(map(np.array_equal, again, base))


def test_a_pseudo_picture_shows_what_its_caption_names(mix: Mix, named: NamedPictures) -> None:
    text = ["a", "ball", "and", "a", "box", "and", "a", "fire hydrant"]
    for _ in range(8):
        plan = mix.plan(text)
        # The best bases show two of the three, and the third is pasted.
        assert len(plan.base.concepts) == 2
        (paste,) = plan.pastes
        (missing,) = {"ball", "box", "fire hydrant"} - plan.base.concepts
        assert missing in paste.picture.concepts
        (row, col), (rows, cols) = paste.source, paste.size
        peak = named.peak(paste.picture.digest, WORDS.index[missing])
        assert row <= peak[0] < row + rows
        assert col <= peak[1] < col + cols
        assert 0 <= paste.target[0] <= SIDE - rows
        assert 0 <= paste.target[1] <= SIDE - cols
        made = mix.paste(plan).concepts[:, 0]
        place = (paste.target[0] + peak[0] - row) * SIDE + paste.target[1] + peak[1] - col
        assert made[place] == WORDS.index[missing]


def test_batches_have_the_sizes_of_the_mix(mix: Mix) -> None:
    described, others = mix.described(), mix.others()
    assert len(described.cells.vectors) == 4
    assert len(described.captions) == 20
    assert len(others.cells.vectors) == len(others.captions) == 10
    half = mix.half(others)
    assert half.captions is others.captions
    assert half.cells.vectors.shape[1] == half.cells.shares.shape[1] == SIDE**2 // 2
    first = others.cells.vectors[:, :1] == half.cells.vectors[:, :1]
    assert half.cells.vectors.shape[0] == len(first)


def test_every_picture_comes_once_before_any_comes_again(
    data: Path, pictures: list[Captioned], named: NamedPictures
) -> None:
    mix = Mix(pictures, [], named, WORDS, sizes=Sizes(9, 0, 0, 0))
    rounds = [np.concatenate([mix.described().cells.vectors for _ in range(2)]) for _ in range(2)]
    ordered = [sorted(vectors.tobytes() for vectors in each) for each in rounds]
    assert len(set(ordered[0])) == 18
    assert ordered[0] == ordered[1]
    assert not np.array_equal(*rounds)


def test_a_seed_gives_the_same_batches(
    data: Path, pictures: list[Captioned], named: NamedPictures
) -> None:
    texts = read_texts(data / "coco_text" / "captions.txt", WORDS)
    one, again, other = (
        Mix(pictures, texts, named, WORDS, sizes=SIZES, seed=seed).others() for seed in (1, 1, 2)
    )
    assert one.captions == again.captions
    assert np.array_equal(one.cells.vectors, again.cells.vectors)
    assert not np.array_equal(one.cells.vectors, other.cells.vectors)


def test_a_mix_that_cannot_be_drawn_is_an_error(
    pictures: list[Captioned], named: NamedPictures, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="none of the 1 captions without pictures"):
        Mix(pictures, [["nothing"]], named, WORDS)
    uneven = [*pictures, Captioned("flickr8k", "x", (("a",),), frozenset())]
    with pytest.raises(DatasetError, match="different numbers of captions"):
        Mix(uneven, [["a", "ball"]], named, WORDS)
    labels = [p for p in pictures if p.kind == "labels"]
    with pytest.raises(DatasetError, match="no pictures of the kind 'general', and 2 a step"):
        Mix(labels, [["a", "ball"]], named, WORDS, sizes=SIZES).others()
    with pytest.raises(DatasetError, match="the captions .* cannot be read"):
        read_texts(tmp_path / "none.txt", WORDS)
    (tmp_path / "general").mkdir()
    (tmp_path / "general" / "dataset_general.json").write_text("[]")
    with pytest.raises(DatasetError, match="cannot be read as Karpathy's JSON"):
        read_pictures(tmp_path, WORDS)
