"""What captions are like, counted by hand."""

import math

import pytest

from regard.metrics.statistics import caption_statistics, repeats_ngram, repeats_word


def test_captions_counted_by_hand() -> None:
    said = {
        "a": ["a", "man", "in", "a", "Red", "shirt"],
        "b": ["a", "man", "in", "a", "red", "shirt"],
        "c": ["a", "dog", "runs", "on", "the", "grass", "on", "the", "grass"],
        "d": [],
    }
    support: dict[str, list[bool | None]] = {
        "a": [None, True, None, None, False, None],
        "b": [None, False, None, None, False, None],
        "c": [None, True, True, None, None, True, None, None, True],
        "d": [],
    }
    found = caption_statistics(said, support, vocabulary=20)
    assert found.captions == 4
    assert found.mean_length == (6 + 6 + 9) / 4
    assert found.distinct == 3
    assert found.words_used == len({"a", "man", "in", "red", "shirt", "dog", "runs", "on", "the",
                                    "grass"})  # fmt: skip
    assert found.vocabulary == 20
    assert found.repeated_ngram == 1 / 4  # "on the grass"
    assert found.repeated_word == 1 / 4
    assert found.unsupported == 3 / 4
    assert found.unsupported_words == 3 / 8
    assert found.unsupported_things == 1 / 5  # man, man, dog, grass, grass: red is a colour
    assert found.unsupported_captions == 1 / 4
    assert found.to_json()["mean_length"] == 5.25


def test_of_no_captions_no_share_is_known() -> None:
    found = caption_statistics({}, {})
    assert math.isnan(found.mean_length)
    assert found.to_json()["unsupported_things"] is None
    assert (found.captions, found.vocabulary) == (0, None)


@pytest.mark.parametrize(
    ("text", "ngram", "word"),
    [
        ("a man in a boat in a lake", False, False),
        ("a man in a man in a hat", True, True),
        ("a dog and a dog", False, True),
        ("the the the the", True, False),
        ("a dog", False, False),
        ("", False, False),
    ],
)
def test_repetition(text: str, ngram: bool, word: bool) -> None:
    assert repeats_ngram(text.split()) is ngram
    assert repeats_word(text.split()) is word


def test_a_run_may_overlap_itself() -> None:
    assert repeats_ngram(["dog", "dog", "dog"], 2)
    assert not repeats_ngram(["dog", "dog", "cat"], 2)
