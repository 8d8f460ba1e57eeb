"""Swapped attention looks elsewhere, and changes nothing else."""

import numpy as np
import pytest
import torch

from regard.backends.torch_backend import TorchBackend
from regard.errors import UnknownName
from regard.faithfulness.experiments import SwappedAttention
from regard.types import Annotations
from tests.helpers import toys


@pytest.mark.parametrize("scores", ["additive", "scaled_dot"])
def test_each_swap_moves_alpha_as_it_says(scores: str) -> None:
    backend = TorchBackend(None, toys.decoder(scores=scores))
    vectors = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
    given = Annotations(vectors, torch.ones(3, 5, dtype=torch.bool), ())
    token = torch.tensor([1, 1, 1])
    projected, state = backend.init_state(given)
    own = backend.step(token, state, projected).alpha

    def swapped(swap: str) -> np.ndarray:
        other = SwappedAttention(backend, swap, seed=3)
        keys, first = other.init_state(given)
        np.testing.assert_array_equal(keys.values, projected.values)
        assert torch.equal(first.hidden, state.hidden)
        return other.step(token, first, keys).alpha.numpy()

    np.testing.assert_allclose(swapped("uniform"), 0.2, atol=1e-6)
    permuted = swapped("permuted")
    np.testing.assert_allclose(np.sort(permuted), np.sort(own.numpy()), atol=1e-6)
    assert not np.allclose(permuted, own)
    # Row 1 looks as row 0's cells would make it look.
    with torch.inference_mode():
        keys = backend.decoder.project(vectors, given.mask).keys
        elsewhere = backend.decoder.attention.scores(state.hidden[1:2, None], keys[:1])
    expected = torch.softmax(elsewhere[0, 0], -1)
    np.testing.assert_allclose(swapped("other picture")[1], expected, atol=1e-6)


def test_an_unknown_swap_is_named() -> None:
    with pytest.raises(UnknownName, match=r"'shuffled'.*permuted"):
        SwappedAttention(TorchBackend(None, toys.decoder()), "shuffled")
