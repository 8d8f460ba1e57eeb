"""Additive scores whose memory does not grow with steps × cells × attention size.

Written plainly, v · tanh(keys + query) keeps an (N, G, L, A) tensor for the backward pass of
every step: 26×14×14 cells of 512 features and 12 words are 125 MB a caption in float32. On such
grids cells are taken block by block, nothing of that size outlives its block, and the backward
pass computes the tanh again. A picture's few cells are computed plainly: there keeping the tanh
takes little memory, and computing it again would take 1.6 times as long.

On a GPU with Triton the tanh is never written down at all (`regard.native.triton_scores`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from regard.native import dispatch

BLOCKWISE_FROM = 513
"""Cells from which scores are computed block by block."""
_BLOCK = 2**18  # numbers of one block: 1 MB in float32, which stays in a core's cache


def additive_scores(keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
    """Return e = v · tanh(keys + query) (Xu et al. 2015, section 3.1.2; Bahdanau et al. 2015).

    Args:
        keys: (N, L, A), projected annotations.
        query: (N, G, A), projected hidden states of the G captions of each item.
        v: (A,).

    Returns:
        (N, G, L) scores, in the keys' type; in float32 where Triton computes them.
    """
    if dispatch.takes(keys, query, v):
        return dispatch.additive_scores(keys, query, v)
    if keys.shape[1] < BLOCKWISE_FROM:
        return torch.tanh(keys[:, None] + query[:, :, None]) @ v.to(keys.dtype)
    return _AdditiveScores.apply(keys, query, v)  # type: ignore[no-any-return]


class _AdditiveScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(keys, query, v)
        weight = v.to(keys.dtype)
        scores = keys.new_empty(keys.shape[0], query.shape[1], keys.shape[1])
        for items, cells in _blocks(keys, query):
            scores[items, :, cells] = _joined(keys, query, items, cells) @ weight
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, query, v = ctx.saved_tensors
        grad, weight = grads[0].to(keys.dtype), v.to(keys.dtype)
        of_keys = torch.empty_like(keys)
        of_query = torch.zeros_like(query, dtype=torch.promote_types(query.dtype, torch.float32))
        of_v = torch.zeros_like(v)
        for items, cells in _blocks(keys, query):
            joined = _joined(keys, query, items, cells)
            of_scores = grad[items, :, cells]
            of_v += (of_scores.reshape(1, -1) @ joined.flatten(0, 2))[0].to(v.dtype)
            # d tanh = 1 - tanh², in the block's own memory
            inner = joined.square_().neg_().add_(1).mul_(weight).mul_(of_scores[..., None])
            of_keys[items, cells] = inner.sum(1)
            of_query[items] += inner.sum(2)
        return of_keys, of_query.to(query.dtype), of_v


def _joined(keys: Tensor, query: Tensor, items: slice, cells: slice) -> Tensor:
    """Return tanh(keys + query) of a block, (n, G, l, A)."""
    return (keys[items, None, cells] + query[items, :, None]).tanh_()


def _blocks(keys: Tensor, query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield slices of items and of cells that hold about `_BLOCK` numbers together.

    Whole items where several fit in a block, else a part of one item's cells, so that what a
    block reads lies together.
    """
    items, cells, features = keys.shape
    of_cell = query.shape[1] * features
    at_once = max(1, _BLOCK // max(1, of_cell * cells))
    part = min(cells, max(1, _BLOCK // max(1, of_cell)))
    for first in range(0, items, at_once):
        for start in range(0, cells, part):
            yield slice(first, first + at_once), slice(start, start + part)
