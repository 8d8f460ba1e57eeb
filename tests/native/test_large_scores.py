"""Additive scores of keys and queries of any size: every path says what plain torch says.

The compiled loops multiply exp(-2 key) by exp(-2 query), and each leaves the numbers of its type
before their product does.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regard.backends.torch_backend import TorchStep
from regard.model.decoder import AttentionDecoder
from regard.native import dispatch, functional
from regard.native.cpp_library import library
from regard.types import DecoderState, ProjectedAnnotations
from tests.helpers import toys

needs_compiler = pytest.mark.skipif(library("float32") is None, reason="no C++ compiler")
ITEMS, CELLS, GROUP = 3, 5, 5  # captions of an item are taken by four

sizes = st.sampled_from([1.0, 50.0, 400.0])  # of keys and of queries
types = st.sampled_from([torch.float32, torch.float64])
seeds = st.integers(0, 2**16)


def decoder_of(size: float, seed: int, dtype: torch.dtype) -> AttentionDecoder:
    """A decoder whose queries are about as large as `size`, and whose v tells them apart."""
    decoder = toys.decoder(seed=seed, temperature=3.0).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    bias = decoder.attention.scores.key.bias
    with torch.no_grad():
        bias.copy_(size * (2 * torch.rand(bias.shape, generator=generator) - 1))
        decoder.attention.scores.v.weight.mul_(4)
    return decoder


def projected_of(size: float, seed: int, decoder: AttentionDecoder) -> ProjectedAnnotations:
    """Keys from -size to size, a third of them near the negative of the query's bias."""
    generator = torch.Generator().manual_seed(seed + 1)
    bias = decoder.attention.scores.key.bias.detach()
    dtype, shape = bias.dtype, (ITEMS, CELLS, len(bias))
    keys = size * (2 * torch.rand(shape, generator=generator, dtype=dtype) - 1)
    near = torch.rand(shape, generator=generator) < 0.4
    keys = torch.where(near, torch.randn(shape, generator=generator, dtype=dtype) - bias, keys)
    values = torch.randn(ITEMS, CELLS, 6, generator=generator, dtype=dtype)
    mask = torch.rand(ITEMS, CELLS, generator=generator) < 0.8
    mask[:, 0] = True
    return ProjectedAnnotations(values, keys, mask)


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(sizes, sizes, seeds, types)
def test_the_compiled_step(keys: float, queries: float, seed: int, dtype: torch.dtype) -> None:
    decoder = decoder_of(queries, seed, dtype)
    projected = projected_of(keys, seed, decoder)
    compiled = TorchStep.from_decoder(decoder)
    assert compiled is not None
    generator = torch.Generator().manual_seed(seed)
    rows = ITEMS * GROUP
    units = decoder.config.hidden_dim
    hidden, memory = (torch.randn(rows, units, generator=generator).to(dtype) for _ in range(2))
    token = torch.randint(0, 12, (rows,), generator=generator)
    with torch.inference_mode():
        packed = compiled.pack(projected)
        state = DecoderState(hidden, memory)
        found = compiled(token, state, packed)
        wanted = decoder.step(token, state, projected)
    near = 5e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(found.alpha, wanted.alpha, rtol=0, atol=near)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=near, atol=10 * near)


def differentiated(
    decoder: AttentionDecoder, given: ProjectedAnnotations
) -> tuple[Tensor, list[Tensor]]:
    """Return alpha (B, T, L) and the gradients of keys and of the attention's weights."""
    keys = given.keys.clone().requires_grad_()
    tokens = torch.arange(ITEMS * GROUP * 3).view(-1, 3) % 12
    steps = torch.ones_like(tokens, dtype=torch.bool)
    steps[::2, 2] = False
    projected = ProjectedAnnotations(given.values, keys, given.mask)
    found = decoder(tokens, projected, steps=steps)
    targets = torch.linspace(0, 1, found.alpha.numel(), dtype=keys.dtype).view(found.alpha.shape)
    loss = (found.alpha * targets).sum() + found.logits.square().mean()
    scores = decoder.attention.scores
    weights = [scores.key.bias, scores.query.weight, scores.v.weight]
    return found.alpha.detach(), list(torch.autograd.grad(loss, [keys, *weights]))


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(sizes, sizes, seeds, types)
def test_the_unrolled_recurrence(
    keys: float, queries: float, seed: int, dtype: torch.dtype
) -> None:
    decoder = decoder_of(queries, seed, dtype)
    projected = projected_of(keys, seed, decoder)
    alpha, gradients = differentiated(decoder, projected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGARD_KERNELS", "plain")
        plain_alpha, plain_gradients = differentiated(decoder, projected)
    near = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(alpha, plain_alpha, rtol=0, atol=near)
    for found, wanted in zip(gradients, plain_gradients, strict=True):
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(found, wanted, rtol=0, atol=near * scale)


@pytest.mark.filterwarnings("ignore:overflow")  # of numpy, which interprets exp
@settings(max_examples=30, deadline=None)
@given(sizes, sizes, seeds, st.sampled_from(["plain", "blocks", "Triton"]))
def test_additive_scores(keys: float, queries: float, seed: int, path: str) -> None:
    """Sums of float32 round at the size of their terms: v tells by how much."""
    generator = torch.Generator().manual_seed(seed)
    exact_keys = keys * (2 * torch.rand(2, 9, 7, generator=generator) - 1)
    query = queries * (2 * torch.rand(2, 3, 7, generator=generator) - 1)
    v = torch.randn(7, generator=generator)
    if path == "Triton":
        if importlib.util.find_spec("triton") is None:
            pytest.skip("Triton has wheels for Linux on x86-64")
        from regard.native import triton_kernels

        function = triton_kernels.additive_scores
    else:
        function = functional.additive_scores
    tensors = [x.clone().requires_grad_() for x in (exact_keys, query, v)]
    double = [x.detach().double().requires_grad_() for x in tensors]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "BLOCKWISE_FROM", 1 if path == "blocks" else 10**6)
        found = function(*tensors)
    wanted = torch.tanh(double[0][:, None] + double[1][:, :, None]) @ double[2]
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=5e-4)
    one = torch.autograd.grad(found.square().sum(), tensors)
    other = torch.autograd.grad(wanted.square().sum(), double)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=2e-2)


@needs_compiler
def test_keys_and_queries_that_cancel_are_not_clamped_apart() -> None:
    """A key of -55 and a query of 49.5: the tanh is -1, not 0."""
    decoder = toys.decoder()
    scores = decoder.attention.scores
    with torch.no_grad():
        scores.key.bias.fill_(49.5)
        scores.v.weight.fill_(1)
    size = len(scores.key.bias)
    keys = torch.zeros(1, 2, size)
    keys[0, 0], keys[0, 1] = -55.0, -49.5
    projected = ProjectedAnnotations(torch.ones(1, 2, 6), keys, torch.ones(1, 2, dtype=torch.bool))
    compiled = TorchStep.from_decoder(decoder)
    assert compiled is not None
    token = torch.tensor([4])
    with torch.inference_mode():
        state = decoder.init_state(projected)
        wanted = decoder.step(token, state, projected).alpha
        found = compiled(token, state, compiled.pack(projected)).alpha
    assert wanted[0, 1] > 0.7
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_no_number_is_not_hidden(dtype: str) -> None:
    loops = library(dtype)
    assert loops is not None
    out = np.empty(3, dtype)
    assert loops.exponentials(np.array([1, np.nan, 2], dtype), out)
    assert np.isnan(out).tolist() == [False, True, False]
    assert not loops.exponentials(np.array([1, 43, -43], dtype), out)
