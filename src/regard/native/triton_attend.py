"""The masked softmax over cells and the context vector in Triton, as one kernel.

Read where Triton is installed; `regard.native.kernels.attend` comes here for tensors on a GPU. The
weights are never rounded to the values' type, and values are read once, whatever the number G of
captions that share them. Sums run in float32, each in one program, so that two runs agree to the
bit.
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
_ROW = 256
"""Cells at once where scores alone are read."""


def attend(
    scores: Tensor, values: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return alpha, (N, G, L) float32, and context, (N, G, D); see `attend`."""
    given = scores.contiguous(), values.contiguous(), mask.contiguous()
    return _Attend.apply(*given, temperature)  # type: ignore[no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, values: Tensor, mask: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        (items, captions, cells), features = scores.shape, values.shape[2]
        alpha = torch.empty_like(scores)
        context = values.new_empty(items, captions, features)
        attend_forward[(items, triton.cdiv(features, _FEATURES))](
            scores,
            values,
            mask,
            alpha,
            context,
            captions,
            cells,
            features,
            temperature,
            _ROW,
            _CELLS,
            _FEATURES,
        )
        ctx.save_for_backward(alpha, values)
        ctx.temperature = temperature
        return alpha, context

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        alpha, values = ctx.saved_tensors
        (items, captions, cells), features = alpha.shape, values.shape[2]
        wanted = ctx.needs_input_grad[1]
        of_alpha = torch.empty_like(alpha)
        of_values = torch.empty_like(values) if wanted else None
        attend_backward[(items, triton.cdiv(cells, _CELLS))](
            values,
            alpha,
            grads[0].contiguous(),
            grads[1].contiguous(),
            of_alpha,
            values if of_values is None else of_values,  # not written to where none is wanted
            captions,
            cells,
            features,
            wanted,
            triton.next_power_of_2(captions),
            _CELLS,
            _FEATURES,
        )
        inner = (alpha * of_alpha).sum(-1, keepdim=True)
        of_scores = alpha * (of_alpha - inner) / ctx.temperature
        return of_scores, of_values, None, None


@triton.jit
def _row_of(scores, mask, row, item, cells, n_cells, temperature):
    """Return the scores of some cells over the temperature, -inf where there is no cell."""
    real = tl.load(mask + item * n_cells + cells, cells < n_cells, other=0) != 0
    return tl.load(scores + row * n_cells + cells, real, other=float("-inf")) / temperature


@triton.jit
def attend_forward(
    scores,
    values,
    mask,
    alpha,
    context,
    n_captions,
    n_cells,
    n_features,
    temperature,
    row_block: tl.constexpr,
    cells_block: tl.constexpr,
    features_block: tl.constexpr,
):
    """Form one block of features of all contexts of an item; the first block writes alpha.

    Every block takes the softmax anew: its L exponentials cost less than a second kernel.
    """
    item = tl.program_id(0).to(tl.int64)
    features = tl.program_id(1) * features_block + tl.arange(0, features_block)
    real = features < n_features
    for caption in range(n_captions):
        row = item * n_captions + caption
        peaks = tl.full((row_block,), float("-inf"), tl.float32)
        for first in range(0, n_cells, row_block):
            cells = first + tl.arange(0, row_block)
            s = _row_of(scores, mask, row, item, cells, n_cells, temperature)
            peaks = tl.maximum(peaks, s)
        peak = tl.max(peaks, 0)
        parts = tl.zeros((row_block,), tl.float32)
        for first in range(0, n_cells, row_block):
            cells = first + tl.arange(0, row_block)
            s = _row_of(scores, mask, row, item, cells, n_cells, temperature)
            parts += tl.exp(s - peak)
        norm = tl.sum(parts, 0)
        total = tl.zeros((cells_block, features_block), tl.float32)
        for first in range(0, n_cells, cells_block):
            cells = first + tl.arange(0, cells_block)
            s = _row_of(scores, mask, row, item, cells, n_cells, temperature)
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
    values,
    alpha,
    of_alpha_itself,
    of_context,
    of_alpha,
    of_values,
    n_captions,
    n_cells,
    n_features,
    with_values: tl.constexpr,
    captions_block: tl.constexpr,
    cells_block: tl.constexpr,
    features_block: tl.constexpr,
):
    """Give the gradients of alpha and of the values for one block of an item's cells.

    That of alpha is its own (a penalty on alpha has one) and of_context · values; that of the
    values is the sum of alpha of_context over captions.
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
            c = tl.load(of_context + row * n_features + features, real, other=0.0)
            c = c.to(tl.float32)[None, :]
            of_row = tl.sum(x * c, 1)[None, :]
            total += tl.where(captions[:, None] == caption, of_row, 0.0)
            if with_values:
                weight = tl.load(alpha + row * n_cells + cells, cells < n_cells, other=0.0)
                values_total += weight[:, None] * c
        if with_values:
            tl.store(of_values + at, values_total.to(of_values.dtype.element_ty), inside)
    at = (item * n_captions + captions[:, None]) * n_cells + cells[None, :]
    inside = (captions[:, None] < n_captions) & (cells[None, :] < n_cells)
    total += tl.load(of_alpha_itself + at, inside, other=0.0)
    tl.store(of_alpha + at, total, inside)
