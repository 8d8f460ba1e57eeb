"""Differentiable functions equal to plain torch that take less memory or time.

`additive_scores`: written plainly, v · tanh(keys + query) keeps an (N, G, L, A) tensor for the
backward pass of every step: 26×14×14 cells of 512 features and 12 words are 125 MB a caption in
float32. On such grids cells are taken block by block, nothing of that size outlives its block, and
the backward pass computes the tanh again. On a picture's few cells keeping the tanh takes little
memory, and computing it again would take 1.6 times as long. Triton never writes it to memory.

`project` and `word_losses`: products with a packed weight; the logits exist once, where plain torch
keeps logits, log-probabilities and the gradient of both, (R, V) each.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from regard.native import dispatch
from regard.native.cpp_library import ALIGNED, Library, PackedProduct

_BLOCK = 2**18  # numbers of one block of cells: 1 MB in float32, which stays in a core's cache
_WORDS = 2048  # words whose packed weights exist at a time


def additive_scores(keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
    """Return e = v · tanh(keys + query) (Xu et al. 2015, section 3.1.2; Bahdanau et al. 2015).

    Args:
        keys: (N, L, A), projected annotations.
        query: (N, G, A), projected hidden states of the G captions of each item.
        v: (A,).

    Returns:
        (N, G, L) scores, in the keys' type; in float32 if Triton computes them.
    """
    case = dispatch.case_of(keys, query, v, cells=keys.shape[1])
    chosen = dispatch.ADDITIVE_SCORES.choose(case)
    if chosen == dispatch.TRITON:
        from regard.native import triton_kernels

        return triton_kernels.additive_scores(keys, query, v)
    if chosen == dispatch.BLOCKWISE:
        return _BlockwiseScores.apply(keys, query, v)  # type: ignore[no-any-return]
    return torch.tanh(keys[:, None] + query[:, :, None]) @ v.to(keys.dtype)


class _BlockwiseScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(keys, query, v)
        weight = v.to(keys.dtype)
        scores = keys.new_empty(keys.shape[0], query.shape[1], keys.shape[1])
        for items, cells in _blocks(keys, query):
            scores[items, :, cells] = _tanh_block(keys, query, items, cells) @ weight
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, query, v = ctx.saved_tensors
        grad, weight = grads[0].to(keys.dtype), v.to(keys.dtype)
        grad_keys, grad_v = torch.empty_like(keys), torch.zeros_like(v)
        grad_query = torch.zeros_like(query, dtype=torch.promote_types(query.dtype, torch.float32))
        for items, cells in _blocks(keys, query):
            tanh = _tanh_block(keys, query, items, cells)
            grad_scores = grad[items, :, cells]
            grad_v += (grad_scores.reshape(1, -1) @ tanh.flatten(0, 2))[0].to(v.dtype)
            # d tanh = 1 - tanh², in the block's own memory
            inner = tanh.square_().neg_().add_(1).mul_(weight).mul_(grad_scores[..., None])
            grad_keys[items, cells] = inner.sum(1)
            grad_query[items] += inner.sum(2)
        return grad_keys, grad_query.to(query.dtype), grad_v


def _tanh_block(keys: Tensor, query: Tensor, items: slice, cells: slice) -> Tensor:
    """Return tanh(keys + query) of a block, (n, G, l, A)."""
    return (keys[items, None, cells] + query[items, :, None]).tanh_()


def _blocks(keys: Tensor, query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield slices of items and of cells that hold about `_BLOCK` numbers together.

    A block holds whole items if several fit, else some cells of one item, so that its memory is
    contiguous.
    """
    items, cells, features = keys.shape
    cell_size = query.shape[1] * features
    items_at_once = max(1, _BLOCK // max(1, cell_size * cells))
    cells_at_once = min(cells, max(1, _BLOCK // max(1, cell_size)))
    for first in range(0, items, items_at_once):
        for start in range(0, cells, cells_at_once):
            yield slice(first, first + items_at_once), slice(start, start + cells_at_once)


class Product(Protocol):
    """x -> x W; see `PackedProduct`."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def into(self, out: Tensor, x: Tensor) -> None: ...

    def add_to(self, out: Tensor, x: Tensor) -> None: ...


def product(weight: Tensor, library: Library, autocast: torch.dtype | None) -> Product:
    """Return the product with a weight (inner, outer).

    Args:
        weight: strided in any way; a copy is kept.
        library: the compiled loops for its type.
        autocast: type that torch multiplies in; None: the weight's own, with the loops.
    """
    return PackedProduct(weight, library) if autocast is None else _CastProduct(weight, autocast)


class _CastProduct:
    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._weight = weight.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return (x.to(self._weight.dtype) @ self._weight).to(x.dtype)

    def into(self, out: Tensor, x: Tensor) -> None:
        out.copy_(x.to(self._weight.dtype) @ self._weight)

    def add_to(self, out: Tensor, x: Tensor) -> None:
        out.add_(x.to(self._weight.dtype) @ self._weight)


def cpu_autocast() -> torch.dtype | None:
    """Return the type that products on the CPU are computed in under autocast, or None."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W', (..., outer), for x (..., inner) and W (outer, inner)."""
    case = dispatch.case_of(x, weight, autocast=torch.is_autocast_enabled("cpu"))
    library = dispatch.KEYS.library(case)
    if library is None:
        return functional.linear(x, weight)
    return _Projection.apply(x, weight, library)  # type: ignore[no-any-return,no-untyped-call]


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, library: Library) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = x.reshape(-1, x.shape[-1])
        return PackedProduct(weight.t(), library)(rows).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grads[0] @ weight if ctx.needs_input_grad[0] else None
        grad_rows, rows = grads[0].reshape(-1, len(weight)), x.reshape(-1, x.shape[-1])
        return grad_x, grad_rows.t() @ rows, None


def word_losses(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy of each row's next word, **not reduced**, (R,), float32 or wider.

    With smoothing s it is -(1 - s) log p(target) - s / V sum_w log p(w).

    Args:
        features: (R, E).
        weight: (V, E).
        bias: (V,).
        target: (R,) int64.
        label_smoothing: s.
    """
    autocast = cpu_autocast()
    case = dispatch.case_of(features, autocast=autocast is not None)
    library = dispatch.VOCABULARY_LOSS.library(case)
    if library is None:
        logits = functional.linear(features, weight, bias)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return functional.cross_entropy(
            logits, target, reduction="none", label_smoothing=label_smoothing
        )
    return _WordLosses.apply(  # type: ignore[no-any-return,no-untyped-call]
        features, weight, bias, target, label_smoothing, autocast, library
    )


class _WordLosses(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # pyright: ignore[reportUntypedFunctionDecorator]
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        target: Tensor,
        smoothing: float,
        autocast: torch.dtype | None,
        library: Library,
    ) -> Tensor:
        words = len(weight)
        # Rows that begin at multiples of 64 bytes: products that write them are faster.
        logits = features.new_empty(len(features), words + -words % ALIGNED)[:, :words]
        for start in range(0, words, _WORDS):
            part = slice(start, start + _WORDS)
            product(weight[part].t(), library, autocast).into(logits[:, part], features)
        losses = logits.new_empty(len(logits))
        target = target.contiguous()
        library.call(
            "cross_entropy", rows=len(logits), words=words, stride=logits.stride(0), bias=bias,
            logits=logits, target=target, smoothing=smoothing, loss=losses,
        )  # fmt: skip
        ctx.save_for_backward(features, weight, target)
        ctx.probabilities, ctx.rest = logits, (smoothing, autocast, library)
        return losses

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")  # pyright: ignore[reportUntypedFunctionDecorator]
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        if ctx.probabilities is None:
            raise RuntimeError("the backward pass was made already; run the forward pass again")
        features, weight, target = ctx.saved_tensors
        smoothing, autocast, library = ctx.rest
        logits, ctx.probabilities = ctx.probabilities, None  # turned into its own gradient
        library.call(
            "cross_entropy_backward", rows=len(logits), words=len(weight), stride=logits.stride(0),
            logits=logits, target=target, smoothing=smoothing, grad_loss=grads[0].contiguous(),
        )  # fmt: skip
        grad_bias = logits.sum(0)
        if autocast is not None:
            logits, features, weight = (x.to(autocast) for x in (logits, features, weight))
        grad_features, grad_weight = logits @ weight, logits.t() @ features
        if autocast is not None:
            grad_features, grad_weight = grad_features.float(), grad_weight.float()
        return grad_features, grad_weight, grad_bias, None, None, None, None
