"""The ranking of logits against the array standard's way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from regard.decoding.topk import log_normaliser, strongest
from regard.native.cpp_library import library
from regard.native.vocabulary_search import LogitRanking

pytestmark = pytest.mark.skipif(library("float32") is None, reason="no C++ compiler")

# Few distinct values, so that ties are common; sizes on both sides of a block of 64.
rows = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.one_of(st.integers(1, 10), st.integers(60, 300))),
    elements=st.sampled_from([-3.0, -2.5, -1.0, 0.0, 40.0]),
)


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(1, 12), st.integers(0, 5), st.sampled_from(["float32", "float64"]))
def test_it_finds_what_the_standard_finds(
    x: np.ndarray, count: int, beside: int, dtype: str
) -> None:
    loops = library(dtype)
    assert loops is not None
    x = x.astype(dtype)
    bias = np.linspace(-1, 1, x.shape[1]).round(1).astype(dtype)
    whole = x + bias
    logits = np.full((len(x), x.shape[1] + beside), np.nan, dtype)
    logits[:, : x.shape[1]] = x
    ranking = LogitRanking(logits[:, : x.shape[1]], bias, loops)
    np.testing.assert_array_equal(logits[:, : x.shape[1]], whole)
    wanted = log_normaliser(whole)
    np.testing.assert_allclose(ranking.normaliser, wanted, rtol=1e-6, atol=1e-6)
    ids, values = ranking.strongest(count)
    best = strongest(whole, count)
    np.testing.assert_array_equal(ids, best.ids)
    np.testing.assert_array_equal(values, best.logprobs)


def test_logits_that_are_no_numbers_are_not_hidden() -> None:
    loops = library("float32")
    assert loops is not None
    logits = np.zeros((2, 100), np.float32)
    logits[1, 70] = np.nan
    ranking = LogitRanking(logits, np.zeros(100, np.float32), loops)
    assert np.isfinite(ranking.normaliser).tolist() == [True, False]
