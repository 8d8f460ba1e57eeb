"""Additive scores, masked softmax and context vectors as Triton kernels, forward and backward.

Imported only if `regard.native.dispatch` chooses them, for tensors on a GPU. The (N, G, L, A) tanh
of additive scores lives in registers alone: the forward pass reads the keys once, whatever the
number G of captions that share them, and the backward pass computes the tanh again and writes
nothing larger than the keys' own gradient. Softmax and context are one kernel that reads the
values once; its weights are never rounded to the values' type. Sums run in float32, each in one
program, so that two runs agree to the bit.
"""

# Type checkers do not know Triton's language.
# pyright: reportMissingParameterType=false, reportUnknownVariableType=false
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownParameterType=false, reportArgumentType=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_CELLS, _TILE_FEATURES = 32, 64
"""Cells and features of a tile: 16 numbers for each of a program's 128 threads."""
_SOFTMAX_CELLS = 256
"""Cells at once where scores alone are read."""


def additive_scores(keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
    """Return e = v · tanh(keys + query), (N, G, L) float32.

    Args:
        keys: (N, L, A), projected annotations.
        query: (N, G, A), projected hidden states of the G captions of each item.
        v: (A,).
    """
    with torch.cuda.device_of(keys):
        return _ScoresFunction.apply(  # type: ignore[no-any-return]
            keys.contiguous(), query.contiguous(), v.contiguous()
        )


def attend(
    scores: Tensor, values: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Take the softmax over valid cells and the expectation of the values.

    Args:
        scores: (N, G, L) float32, of the G captions of each item.
        values: (N, L, D).
        mask: (N, L) bool, True = real cell.
        temperature: divides the scores.

    Returns:
        alpha, (N, G, L) float32, 0 on cells that the mask rules out; context, (N, G, D), in the
        values' type.
    """
    with torch.cuda.device_of(values):
        return _AttendFunction.apply(  # type: ignore[no-any-return]
            scores.contiguous(), values.contiguous(), mask.contiguous(), temperature
        )


class _ScoresFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(keys, query, v)
        (items, cells, features), captions = keys.shape, query.shape[1]
        scores = keys.new_empty(items, captions, cells, dtype=torch.float32)
        scores_forward[(items, triton.cdiv(cells, _TILE_CELLS))](
            keys, query, v, scores, captions, cells, features, _TILE_CELLS, _TILE_FEATURES
        )
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, query, v = ctx.saved_tensors
        (items, cells, features), captions = keys.shape, query.shape[1]
        grad_keys, grad_query = torch.empty_like(keys), torch.empty_like(query)
        # One row an item, added up below: a sum of fixed order, where atomic adds have none.
        grad_v = keys.new_empty(items, features, dtype=torch.float32)
        scores_backward[(items, triton.cdiv(features, _TILE_FEATURES))](
            keys, query, v, grads[0].contiguous(), grad_keys, grad_query, grad_v,
            captions, cells, features,
            triton.next_power_of_2(captions), _TILE_CELLS, _TILE_FEATURES,
        )  # fmt: skip
        return grad_keys, grad_query, grad_v.sum(0).to(v.dtype)


class _AttendFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, values: Tensor, mask: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        (items, captions, cells), features = scores.shape, values.shape[2]
        alpha = torch.empty_like(scores)
        context = values.new_empty(items, captions, features)
        attend_forward[(items, triton.cdiv(features, _TILE_FEATURES))](
            scores, values, mask, alpha, context, captions, cells, features, temperature,
            _SOFTMAX_CELLS, _TILE_CELLS, _TILE_FEATURES,
        )  # fmt: skip
        ctx.save_for_backward(alpha, values)
        ctx.temperature = temperature
        return alpha, context

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        alpha, values = ctx.saved_tensors
        (items, captions, cells), features = alpha.shape, values.shape[2]
        with_values = ctx.needs_input_grad[1]
        grad_total = torch.empty_like(alpha)
        grad_values = torch.empty_like(values) if with_values else None
        attend_backward[(items, triton.cdiv(cells, _TILE_CELLS))](
            values, alpha, grads[0].contiguous(), grads[1].contiguous(), grad_total,
            values if grad_values is None else grad_values,  # not written to without `with_values`
            captions, cells, features, with_values,
            triton.next_power_of_2(captions), _TILE_CELLS, _TILE_FEATURES,
        )  # fmt: skip
        inner = (alpha * grad_total).sum(-1, keepdim=True)
        grad_scores = alpha * (grad_total - inner) / ctx.temperature
        return grad_scores, grad_values, None, None


@triton.jit
def _tanh(x):
    # Off by 1e-7 at most; Triton has no tanh that runs on every device and in its interpreter.
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def scores_forward(
    keys, query, v, scores,
    n_captions, n_cells, n_features,
    cells_block: tl.constexpr, features_block: tl.constexpr,
):  # fmt: skip
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
    keys, query, v, grad_scores, grad_keys, grad_query, grad_v,
    n_captions, n_cells, n_features,
    captions_block: tl.constexpr, cells_block: tl.constexpr, features_block: tl.constexpr,
):  # fmt: skip
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
            s = tl.load(grad_scores + row * n_cells + cells, cells < n_cells, other=0.0)
            t = _tanh(k + q[None, :])
            v_total += s[:, None] * t
            inner = s[:, None] * (1 - t * t)
            keys_total += inner
            row_sum = tl.sum(inner, 0)[None, :]
            query_total += tl.where(captions[:, None] == caption, row_sum, 0.0)
        keys_total *= weight[None, :]
        tl.store(grad_keys + at, keys_total.to(grad_keys.dtype.element_ty), inside)
    tl.store(grad_v + item * n_features + features, tl.sum(v_total, 0), real)
    query_total *= weight[None, :]
    at = (item * n_captions + captions[:, None]) * n_features + features[None, :]
    inside = (captions[:, None] < n_captions) & real[None, :]
    tl.store(grad_query + at, query_total.to(grad_query.dtype.element_ty), inside)


# Type checkers do not understand Triton's language.
# pyright: reportMissingParameterType=false, reportUnknownVariableType=false
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownParameterType=false, reportArgumentType=false, reportIndexIssue=false


@triton.jit
def _scaled_scores(scores, mask, row, item, cells, n_cells, temperature):
    """Return the scores of some cells over the temperature, -inf where there is no cell."""
    real = tl.load(mask + item * n_cells + cells, cells < n_cells, other=0) != 0
    return tl.load(scores + row * n_cells + cells, real, other=float("-inf")) / temperature


@triton.jit
def attend_forward(
    scores, values, mask, alpha, context,
    n_captions, n_cells, n_features, temperature,
    softmax_block: tl.constexpr, cells_block: tl.constexpr, features_block: tl.constexpr,
):  # fmt: skip
    """Form one block of features of all contexts of an item; the first block writes alpha.

    Every block recomputes the softmax: its L exponentials cost less than a second kernel.
    """
    item = tl.program_id(0).to(tl.int64)
    features = tl.program_id(1) * features_block + tl.arange(0, features_block)
    real = features < n_features
    for caption in range(n_captions):
        row = item * n_captions + caption
        peaks = tl.full((softmax_block,), float("-inf"), tl.float32)
        for first in range(0, n_cells, softmax_block):
            cells = first + tl.arange(0, softmax_block)
            s = _scaled_scores(scores, mask, row, item, cells, n_cells, temperature)
            peaks = tl.maximum(peaks, s)
        peak = tl.max(peaks, 0)
        parts = tl.zeros((softmax_block,), tl.float32)
        for first in range(0, n_cells, softmax_block):
            cells = first + tl.arange(0, softmax_block)
            s = _scaled_scores(scores, mask, row, item, cells, n_cells, temperature)
            parts += tl.exp(s - peak)
        norm = tl.sum(parts, 0)
        total = tl.zeros((cells_block, features_block), tl.float32)
        for first in range(0, n_cells, cells_block):
            cells = first + tl.arange(0, cells_block)
            s = _scaled_scores(scores, mask, row, item, cells, n_cells, temperature)
            weight = tl.exp(s - peak) / norm
            at = (item * n_cells + cells[:, None]) * n_features + features[None, :]
            x = tl.load(values + at, (cells[:, None] < n_cells) & real[None, :], other=0.0)
            total += weight[:, None] * x.to(tl.float32)
            if tl.program_id(1) == 0:
                tl.store(alpha + row * n_cells + cells, weight, cells < n_cells)
        summed = tl.sum(total, 0).to(context.dtype.element_ty)
        tl.store(context + row * n_features + features, summed, real)


@triton.jit
def attend_backward(
    values, alpha, grad_alpha, grad_context, grad_total, grad_values,
    n_captions, n_cells, n_features, with_values: tl.constexpr,
    captions_block: tl.constexpr, cells_block: tl.constexpr, features_block: tl.constexpr,
):  # fmt: skip
    """Give the gradients of alpha and of the values for one block of an item's cells.

    That of alpha is its own (a penalty on alpha has one) and grad_context · values; that of the
    values is the sum of alpha grad_context over captions.
    """
    item = tl.program_id(0).to(tl.int64)
    cells = tl.program_id(1) * cells_block + tl.arange(0, cells_block)
    captions = tl.arange(0, captions_block)
    total = tl.zeros((captions_block, cells_block), tl.float32)
    for first in range(0, n_features, features_block):
        features = first + tl.arange(0, features_block)
        real = features < n_features
        at = (item * n_cells + cells[:, None]) * n_features + features[None, :]
        inside = (cells[:, None] < n_cells) & real[None, :]
        x = tl.load(values + at, inside, other=0.0).to(tl.float32)
        values_total = tl.zeros((cells_block, features_block), tl.float32)
        for caption in range(n_captions):
            row = item * n_captions + caption
            c = tl.load(grad_context + row * n_features + features, real, other=0.0)
            c = c.to(tl.float32)[None, :]
            row_sum = tl.sum(x * c, 1)[None, :]
            total += tl.where(captions[:, None] == caption, row_sum, 0.0)
            if with_values:
                weight = tl.load(alpha + row * n_cells + cells, cells < n_cells, other=0.0)
                values_total += weight[:, None] * c
        if with_values:
            tl.store(grad_values + at, values_total.to(grad_values.dtype.element_ty), inside)
    at = (item * n_captions + captions[:, None]) * n_cells + cells[None, :]
    inside = (captions[:, None] < n_captions) & (cells[None, :] < n_cells)
    total += tl.load(grad_alpha + at, inside, other=0.0)
    tl.store(grad_total + at, total, inside)
