"""The strongest words against a full sort, in numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from regard.decoding.topk import log_softmax, strongest

# Few distinct values, so that ties are common; sizes on both sides of a block and of count blocks.
rows = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.one_of(st.integers(1, 10), st.integers(60, 300))),
    elements=st.sampled_from([-np.inf, -3.0, -2.0, -1.5, -1.0, 0.0]),
)


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(1, 6), st.booleans())
def test_the_strongest_are_the_first_of_a_stable_sort(
    x: np.ndarray, count: int, tensors: bool
) -> None:
    found = strongest(torch.as_tensor(x) if tensors else x, count)
    order = np.argsort(-x, axis=-1, kind="stable")[:, :count]
    values = np.take_along_axis(x, order, -1)
    np.testing.assert_array_equal(found.logprobs, values)
    # Which of the words at -inf are named does not matter, as long as none is named twice.
    np.testing.assert_array_equal(found.ids[np.isfinite(values)], order[np.isfinite(values)])
    assert all(len(set(row)) == len(row) for row in found.ids.tolist())
    assert found.ids.max() < x.shape[-1]


@pytest.mark.parametrize("tensors", [False, True])
def test_the_input_stays_as_it_was(tensors: bool) -> None:
    x = np.arange(6.0).reshape(1, 6)
    strongest(torch.as_tensor(x) if tensors else x, 3)
    assert x.tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("tensors", [False, True])
def test_log_softmax_by_hand_and_without_overflow(tensors: bool) -> None:
    x = np.array([[0.0, np.log(3.0)], [1000.0, 1000.0]])
    found = np.asarray(log_softmax(torch.as_tensor(x) if tensors else x))
    np.testing.assert_allclose(np.exp(found), [[0.25, 0.75], [0.5, 0.5]])
