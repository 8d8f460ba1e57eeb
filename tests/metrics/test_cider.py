"""CIDEr-D against pycocoevalcap and against numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from regard.errors import DatasetError
from regard.metrics import CiderD

WORDS = ("a", "man", "dog", "red", "runs", "the", "on", "grass")
caption = st.lists(st.sampled_from(WORDS), max_size=12)
corpus = st.lists(
    st.tuples(caption, st.lists(caption, min_size=1, max_size=4)), min_size=1, max_size=6
)


@given(corpus)
def test_equals_pycocoevalcap_on_its_own_references(pictures: list):
    gts = {i: [" ".join(r) for r in refs] for i, (_, refs) in enumerate(pictures)}
    res = {i: [" ".join(c)] for i, (c, _) in enumerate(pictures)}
    if not any(any(refs) for refs in gts.values()):
        return  # pycocoevalcap cannot count a corpus without a word
    expected = Cider().compute_score(gts, res)[1]
    scorer = CiderD.from_captions([refs for _, refs in pictures])
    found = [scorer.score(candidate, refs) for candidate, refs in pictures]
    assert found == pytest.approx(list(expected), abs=1e-9)


def test_one_word_by_hand():
    # N = 2, every word in one picture only: weight log 2. The lengths agree, the one unigram
    # matches, and there are no longer n-grams: (1 + 0 + 0 + 0) / 4 · 10.
    scorer = CiderD.from_captions([[["ball"]], [["cube"]]])
    assert scorer.score(["ball"], [["ball"]]) == pytest.approx(2.5, abs=1e-12)
    # A second reference without the word halves it.
    assert scorer.score(["ball"], [["ball"], ["cone"]]) == pytest.approx(1.25, abs=1e-12)


def test_repeated_words_are_clipped_and_length_is_punished_by_hand():
    # g(c) = (3 log 2) for "ball", g(s) = log 2: min·g(s) / (norms) = 1/3; two bigrams longer.
    scorer = CiderD.from_captions([[["ball"]], [["cube"]]])
    expected = 10 / 4 * (1 / 3) * math.exp(-(2**2) / (2 * 6**2))
    assert scorer.score(["ball"] * 3, [["ball"]]) == pytest.approx(expected, abs=1e-12)


def test_a_word_of_every_picture_is_worth_nothing():
    scorer = CiderD.from_captions([[["a", "ball"]], [["a", "cube"]]])
    assert scorer.score(["a"], [["a", "ball"]]) == 0


def test_document_frequency_counts_pictures_not_captions():
    scorer = CiderD.from_captions([[["dog"], ["dog", "dog"]], [["cat"]]])
    assert scorer.documents == 2
    assert scorer.document_frequency[("dog",)] == 1


def test_frequencies_of_another_corpus_change_the_score():
    refs = [["a", "dog", "runs"]]
    own = CiderD.from_captions([refs, [["a", "cat"]]])
    other = CiderD.from_captions([[["dog", "runs"]], [["dog", "sits"]], [["a", "cat"]]])
    assert own.score(["dog"], refs) != pytest.approx(other.score(["dog"], refs), abs=1e-3)


@pytest.mark.parametrize("candidate", [[], ["unseen"], ["ball", "cube"]])
def test_one_picture_gives_zero_as_in_the_reference(candidate: list[str]):
    assert CiderD.from_captions([[["ball"]]]).score(candidate, [["ball"]]) == 0


def test_empty_captions_score_zero():
    scorer = CiderD.from_captions([[["ball"]], [["cube"]]])
    assert scorer.score([], [["ball"]]) == 0
    assert scorer.score(["ball"], [[]]) == 0


def test_no_reference_is_refused():
    with pytest.raises(DatasetError, match="no reference"):
        CiderD.from_captions([[["ball"]]]).score(["ball"], [])


@pytest.mark.parametrize(("counts", "documents"), [({}, 0), ({("dog",): 3}, 2)])
def test_impossible_counts_are_refused(counts: dict, documents: int):
    with pytest.raises(DatasetError, match="Count pictures"):
        CiderD(counts, documents)
