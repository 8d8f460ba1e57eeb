"""What may be said: n-grams, top-k, top-p, and ids that make no sense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from regard.decoding import DecodingOptions
from regard.decoding.topk import Filter, Ids, keep_likely, repeated_ngrams
from regard.errors import ConfigError


def sampling(**options: float) -> DecodingOptions:
    return DecodingOptions(method="sample", **options)


@given(st.lists(st.integers(0, 3), max_size=10), st.integers(1, 4))
def test_a_word_is_blocked_exactly_if_it_repeats_an_ngram(said: list[int], size: int) -> None:
    blocked = repeated_ngrams([tuple(said)], size, 4)[0]
    for word in range(4):
        after = [*said, word]
        ngrams = [tuple(after[i : i + size]) for i in range(len(after) - size + 1)]
        assert blocked[word] == (bool(ngrams) and ngrams[-1] in ngrams[:-1])


def test_top_k_and_top_p_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]))
    kept = np.isfinite(keep_likely(logits, sampling(top_k=1)))
    assert kept.tolist() == [[True, False, False, False], [False, False, False, True]]
    kept = np.isfinite(keep_likely(logits, sampling(top_k=2)))  # of two equals the smaller id
    assert kept.tolist() == [[True, True, False, False], [False, False, True, True]]
    kept = np.isfinite(keep_likely(logits, sampling(top_p=0.75)))
    assert kept.tolist() == [[True, True, True, False], [False, True, True, True]]
    # 0.5 / 0.9 of the three survivors of top_k alone is more than a half.
    kept = np.isfinite(keep_likely(logits, sampling(top_k=3, top_p=0.55)))
    assert kept.tolist() == [[True, False, False, False], [False, False, True, True]]


@given(arrays.arrays(np.float64, (2, 7), elements=st.floats(-5, 5)), st.floats(0.05, 0.95))
def test_top_p_keeps_the_fewest_words_that_reach_p(logits: np.ndarray, p: float) -> None:
    kept = np.isfinite(keep_likely(logits, sampling(top_p=p)))
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for row, keep in zip(probability, kept, strict=True):
        assert row[keep].sum() >= p - 1e-9
        assert row[keep].sum() - row[keep].min() < p + 1e-9
        assert keep.all() or row[keep].min() >= row[~keep].max()


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.5}, {"top_k": 2, "top_p": 0.5}])
def test_where_no_word_may_follow_none_is_kept(options: dict) -> None:
    logits = np.array([[-np.inf] * 3, [-np.inf, 0.0, -np.inf]])
    assert np.isfinite(keep_likely(logits, sampling(**options))).tolist() == [
        [False, False, False],
        [False, True, False],
    ]


class Numpy:
    """The part of a backend that a filter needs."""

    def asarray(self, x: np.ndarray) -> np.ndarray:
        return x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": (9,)}, "prefix.*9.*0 to 5"),
        ({"banned": (-1,)}, "banned.*-1.*0 to 5"),
        ({"prefix": (3, 1)}, "prefix.*special id 1"),
        ({"prefix": (0,)}, "prefix.*special id 0"),
    ],
)
def test_ids_that_cannot_be_said_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Filter(Numpy(), DecodingOptions(**options), Ids(0, 1, (0,)), words=6)  # type: ignore[arg-type]
