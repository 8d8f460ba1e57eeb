"""Weak labels of pictures teach what a cell shows, and a pointer gets it unchanged."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from projects.everyday.bank import Bank, ConceptHead, head_loss, train_head
from projects.everyday.concept_words import ConceptWords
from projects.everyday.encode import Labelled, files_of
from projects.everyday.naming import box_scores, held_out_accuracy, pointer_of, read_boxes
from projects.everyday.tests.coloured_toys import PARTS, SIDE, WORDS
from projects.everyday.weak_labels import (
    annotations_of,
    described,
    hold_out,
    labelled,
    read_examples,
)
from regard import DatasetError
from regard.data import AnnotationStore
from regard.media import digest_of


def cells_of(data: Path, store: AnnotationStore) -> torch.Tensor:
    files = files_of(data, "everyday_dev")
    return annotations_of(store, [digest_of(file) for file in files], pooled=False)


def test_the_head_finds_in_cells_what_captions_say_of_pictures(
    data: Path, store: AnnotationStore, head: ConceptHead
) -> None:
    files = files_of(data, "everyday_dev")
    boxes = read_boxes(data / "everyday_dev" / "boxes.json", files, WORDS)
    scores = box_scores(head, cells_of(data, store), boxes, WORDS, SIDE)
    assert scores["average_precision"] > 0.9
    assert scores["peak"] > 0.75  # by chance: the area
    assert scores["area"] == pytest.approx(0.25)


def test_held_out_labels_are_recognised(data: Path, store: AnnotationStore) -> None:
    examples, test = read_examples(data, store, WORDS)
    everything, _ = read_examples(data, store, WORDS, held_out=False)
    assert len(test.cells) == 6  # two of nine pictures of each of three concepts
    assert len(everything.cells) == len(examples.cells) + 6 == 18 + 6 + 27
    state = torch.random.get_rng_state()
    head = train_head(examples, parts=PARTS, epochs=40, batch_size=16, bf16=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert held_out_accuracy(head, test) == 1.0
    fresh = ConceptHead(len(WORDS), PARTS).eval()
    with torch.no_grad():
        fresh.vectors.zero_()  # then the threshold decides, and all have the same
        fresh.threshold[WORDS.index["snow"]] = 0
    assert held_out_accuracy(fresh, test) == 0.0
    assert held_out_accuracy(fresh, test, ranks=4) == 1.0


def test_a_seed_gives_the_same_head(data: Path, store: AnnotationStore) -> None:
    examples, _ = read_examples(data, store, WORDS)
    one, again, other = (
        train_head(examples, parts=PARTS, epochs=1, batch_size=16, seed=seed).vectors
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_pointer_names_by_the_heads_logits(
    data: Path, store: AnnotationStore, head: ConceptHead, tmp_path: Path
) -> None:
    head.bank().save(tmp_path / "bank.safetensors")
    bank = Bank.load(tmp_path / "bank.safetensors", WORDS)
    cells = cells_of(data, store).float()
    with torch.no_grad():
        logits = head.scores(cells)
        named = pointer_of(bank).naming(cells, torch.ones(cells.shape[:2], dtype=torch.bool))
    nothing = torch.zeros(*logits.shape[:2], 1)
    expected = torch.cat([logits, nothing], -1).softmax(-1)[..., :-1]
    torch.testing.assert_close(named, expected, atol=2e-3, rtol=1e-2)
    assert named.amax() > 0.8


def test_a_projection_is_where_the_map_of_pictures_begins() -> None:
    projection = torch.randn(6, PARTS.tokens)
    head = ConceptHead(3, PARTS, projection)
    assert head.vectors.shape == (3, 6)
    same = torch.nn.functional.cosine_similarity(
        head.whole.weight.flatten(), projection.flatten(), 0
    )
    assert float(same) == pytest.approx(1)
    assert float(head.whole.weight.std()) == pytest.approx(0.03)


def test_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3), 0.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    # -log sigmoid(0) of what is said, half of -log(1 - 3/4) and -log(1/2) of what is not
    binary = math.log(2) + 0.5 * (math.log(4) + math.log(2))
    softmax = -math.log(1 / 5)
    found = head_loss(logits, targets, torch.tensor([[0.5]]))
    assert float(found) == pytest.approx(binary + 0.5 * softmax)


def test_five_captions_say_more_than_one() -> None:
    cells = torch.zeros(1, 1, 2)
    texts = ["a ball", "two balls", "a box", "the hydrant", "some snow"]
    tokens = [text.split() for text in texts]
    five = described(cells, [tokens], WORDS, "flickr8k")
    assert five.targets.tolist() == [[1.0, 0.5, 0.5, 0.5]]
    assert five.absence.tolist() == [[1.0]]
    one = described(cells, [tokens[:1]], WORDS, "general")
    assert one.targets.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert one.absence.item() == pytest.approx(0.3)


def test_a_colour_is_not_taken_for_a_fruit() -> None:
    words = ConceptWords({"orange": "", "dog": ""})
    found = described(torch.zeros(1, 1, 2), [[["an", "orange", "dog"]]], words, "general")
    assert found.targets.tolist() == [[0.0, 1.0]]


def test_every_fifth_picture_of_frequent_labels_is_held_out() -> None:
    pictures = [Labelled(f"{i}.png", "box" if i < 10 else "hydrant", "toys") for i in range(17)]
    pictures += [Labelled("x.png", "unknown thing", "toys")]
    cells = torch.arange(18.0)[:, None, None]
    train, test = hold_out(labelled(cells, pictures, WORDS))
    assert test.cells.flatten().tolist() == [0, 5]
    assert train.cells.flatten().tolist() == [1, 2, 3, 4, 6, 7, 8, 9, *range(10, 17)]


def test_a_bank_of_other_concepts_is_an_error(head: ConceptHead, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    with pytest.raises(DatasetError, match="cannot be read.*command bank"):
        Bank.load(path, WORDS)
    bank = head.bank()
    replace(bank, vectors=bank.vectors[1:]).save(path)
    with pytest.raises(DatasetError, match="has 3 concepts, and the list has 4"):
        Bank.load(path, WORDS)
