"""Smoothed BLEU of one caption, by hand and by its laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.metrics.cider import sentence_bleu

REFERENCES = (
    ("a", "dog", "is", "running", "on", "the", "grass"),
    ("the", "dog", "runs", "on", "the", "lawn"),
)
words = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9)


def test_by_hand() -> None:
    """6 of 7 words, 4 of 6 pairs, 2 of 5 triples and 1 of 4 quadruples stand in a reference."""
    found = sentence_bleu(["a", "dog", "runs", "on", "the", "green", "grass"], REFERENCES)
    assert found == pytest.approx((6 / 7 * 5 / 7 * 3 / 6 * 2 / 5) ** 0.25)


def test_a_short_caption_is_charged_for_its_length() -> None:
    """3 of 3 words, 2 of 2 pairs, 1 of 1 triples; the nearest reference has 6 words."""
    found = sentence_bleu(["the", "dog", "runs"], REFERENCES)
    assert found == pytest.approx(math.exp(1 - 6 / 3))


@pytest.mark.parametrize(
    ("lengths", "nearest"),
    [((3, 8), 8), ((6, 8), 6), ((8, 6), 6)],  # of 7 words; of two that are as near the shorter
)
def test_it_is_charged_by_the_reference_of_the_nearest_length(
    lengths: tuple[int, ...], nearest: int
) -> None:
    references = tuple(("a",) * length for length in lengths)
    found = sentence_bleu(["a"] * 7, references, n=1)
    matches = min(7, max(lengths)) / 7
    assert found == pytest.approx(matches * math.exp(min(0, 1 - nearest / 7)))


def test_a_word_counts_as_often_as_one_reference_has_it() -> None:
    found = sentence_bleu(["the", "the", "the"], REFERENCES, n=1)
    assert found == pytest.approx(2 / 3 * math.exp(1 - 6 / 3))


@pytest.mark.parametrize("candidate", [[], ["cat"]])
def test_without_a_match_it_is_nothing(candidate: list[str]) -> None:
    assert sentence_bleu(candidate, REFERENCES) == 0


@given(words, st.lists(words, min_size=1, max_size=4))
def test_it_lies_between_nothing_and_one_and_a_reference_has_one(
    candidate: list[str], others: list[list[str]]
) -> None:
    references = tuple(map(tuple, others))
    assert 0 <= sentence_bleu(candidate, references) <= 1
    assert sentence_bleu(candidate, (*references, tuple(candidate))) == pytest.approx(1)
