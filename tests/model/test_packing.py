"""Rows without padding."""

import torch

from regard.model.unroll import pack_captions, pack_unpadded


def test_captions_that_are_all_whole_are_planned_alike_without_looking() -> None:
    one, other = (
        pack_captions(torch.ones(3, 4, dtype=torch.bool)),
        pack_unpadded(3, 4, torch.device("cpu")),
    )
    assert (one.counts, one.shape) == (other.counts, other.shape)
    assert torch.equal(one.order, other.order)
    assert torch.equal(one.flat, other.flat)
    x = torch.arange(24.0).view(3, 4, 2)
    assert torch.equal(other.unpack(other.pack(x)), x)
