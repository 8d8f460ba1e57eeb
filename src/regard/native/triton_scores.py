"""Additive scores in Triton: the (N, G, L, A) tanh lives in registers only.

Read where Triton is installed; `regard.native.additive` comes here for tensors on a GPU. The
forward pass reads the keys once, whatever the number G of captions that share them; the backward
pass computes the tanh again, and writes nothing larger than the keys' own gradient. Sums run in
float32 whatever the keys' type, each in one program, so that two runs agree to the bit.
"""

# Triton's language is no Python that a type checker knows.
# pyright: reportMissingParameterType=false, reportUnknownVariableType=false
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownParameterType=false, reportArgumentType=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_CELLS, _FEATURES = 32, 64
"""Cells and features of a tile: 16 numbers for each of a program's 128 threads."""


def additive_scores(keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
    """Return e = v · tanh(keys + query), (N, G, L) float32; see `regard.native.additive`."""
    return _Scores.apply(keys.contiguous(), query.contiguous(), v.contiguous())  # type: ignore[no-any-return]


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(keys, query, v)
        (items, cells, features), captions = keys.shape, query.shape[1]
        scores = keys.new_empty(items, captions, cells, dtype=torch.float32)
        scores_forward[(items, triton.cdiv(cells, _CELLS))](
            keys, query, v, scores, captions, cells, features, _CELLS, _FEATURES
        )
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, query, v = ctx.saved_tensors
        (items, cells, features), captions = keys.shape, query.shape[1]
        of_keys, of_query = torch.empty_like(keys), torch.empty_like(query)
        # One row an item, added up below: a sum of fixed order, where atomic adds have none.
        of_v = keys.new_empty(items, features, dtype=torch.float32)
        scores_backward[(items, triton.cdiv(features, _FEATURES))](
            keys,
            query,
            v,
            grads[0].contiguous(),
            of_keys,
            of_query,
            of_v,
            captions,
            cells,
            features,
            triton.next_power_of_2(captions),
            _CELLS,
            _FEATURES,
        )
        return of_keys, of_query, of_v.sum(0).to(v.dtype)


@triton.jit
def _tanh(x):
    # Off by 1e-7 at most; Triton has no tanh that runs on every device and in its interpreter.
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def scores_forward(
    keys,
    query,
    v,
    scores,
    n_captions,
    n_cells,
    n_features,
    cells_block: tl.constexpr,
    features_block: tl.constexpr,
):
    """Score one block of an item's cells for all its captions.

    From the second caption on the keys come from the processor's own cache.
    """
    item = tl.program_id(0).to(tl.int64)
    cells = tl.program_id(1) * cells_block + tl.arange(0, cells_block)
    for caption in range(n_captions):
        row = item * n_captions + caption
        total = tl.zeros((cells_block, features_block), tl.float32)
        for first in range(0, n_features, features_block):
            features = first + tl.arange(0, features_block)
            real = features < n_features
            at = (item * n_cells + cells[:, None]) * n_features + features[None, :]
            k = tl.load(keys + at, (cells[:, None] < n_cells) & real[None, :], other=0.0)
            q = tl.load(query + row * n_features + features, real, other=0.0)
            weight = tl.load(v + features, real, other=0.0)  # 0 beyond the last feature
            x = k.to(tl.float32) + q.to(tl.float32)[None, :]
            total += weight.to(tl.float32)[None, :] * _tanh(x)
        tl.store(scores + row * n_cells + cells, tl.sum(total, 1), cells < n_cells)


@triton.jit
def scores_backward(
    keys,
    query,
    v,
    of_scores,
    of_keys,
    of_query,
    of_v,
    n_captions,
    n_cells,
    n_features,
    captions_block: tl.constexpr,
    cells_block: tl.constexpr,
    features_block: tl.constexpr,
):
    """Give the gradients of one block of an item's features.

    With s the scores' gradient and t = tanh(keys + query): of v it is the sum of s t over cells
    and captions, of a key the sum of s v (1 - t²) over captions, of a query that over cells.
    """
    item = tl.program_id(0).to(tl.int64)
    features = tl.program_id(1) * features_block + tl.arange(0, features_block)
    captions = tl.arange(0, captions_block)
    real = features < n_features
    weight = tl.load(v + features, real, other=0.0).to(tl.float32)
    query_total = tl.zeros((captions_block, features_block), tl.float32)
    v_total = tl.zeros((cells_block, features_block), tl.float32)
    for first in range(0, n_cells, cells_block):
        cells = first + tl.arange(0, cells_block)
        at = (item * n_cells + cells[:, None]) * n_features + features[None, :]
        inside = (cells[:, None] < n_cells) & real[None, :]
        k = tl.load(keys + at, inside, other=0.0).to(tl.float32)
        keys_total = tl.zeros((cells_block, features_block), tl.float32)
        for caption in range(n_captions):
            row = item * n_captions + caption
            q = tl.load(query + row * n_features + features, real, other=0.0).to(tl.float32)
            s = tl.load(of_scores + row * n_cells + cells, cells < n_cells, other=0.0)
            t = _tanh(k + q[None, :])
            v_total += s[:, None] * t
            inner = s[:, None] * (1 - t * t)
            keys_total += inner
            of_row = tl.sum(inner, 0)[None, :]
            query_total += tl.where(captions[:, None] == caption, of_row, 0.0)
        keys_total *= weight[None, :]
        tl.store(of_keys + at, keys_total.to(of_keys.dtype.element_ty), inside)
    tl.store(of_v + item * n_features + features, tl.sum(v_total, 0), real)
    query_total *= weight[None, :]
    at = (item * n_captions + captions[:, None]) * n_features + features[None, :]
    inside = (captions[:, None] < n_captions) & real[None, :]
    tl.store(of_query + at, query_total.to(of_query.dtype.element_ty), inside)
