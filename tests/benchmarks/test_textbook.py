"""Training's losses and gradients against the textbook loop, and plain PyTorch's against both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.plain import Plain
from benchmarks.textbook import Textbook, draw_kept
from regard.config import ObjectiveConfig
from regard.errors import ConfigError
from regard.model.decoder import AttentionDecoder
from regard.training.batches import Chunk, collate
from regard.training.objectives.base import Batch
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.objectives.reinforce import HardAttentionObjective
from tests.helpers import toys

WORDS = 12

kinds = st.fixed_dictionaries(
    {
        "scores": st.sampled_from(["additive", "dot", "scaled_dot", "uniform"]),
        "gate": st.sampled_from(["none", "scalar", "feature"]),
        "init": st.sampled_from(["mlp", "mean"]),
        "feature_dim": st.sampled_from([0, 5]),
        "annotation_norm": st.booleans(),
        "output_activation": st.sampled_from(["tanh", "linear"]),
        "tie_embeddings": st.booleans(),
        "temperature": st.sampled_from([1.0, 0.7]),
        "embedding_dropout": st.sampled_from([0.0, 0.25]),
    }
)
precisions = st.sampled_from([torch.float32, torch.float64])
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
objectives = st.fixed_dictionaries(
    {"lambda_ds": st.sampled_from([0.0, 1.0]), "label_smoothing": st.sampled_from([0.0, 0.1])}
)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Pictures of 1 to 7 cells, some of them padding; captions of 0 to 6 words."""
    items, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    cells, seed = draw(st.integers(1, 7)), draw(st.integers(0, 2**16))
    words = st.lists(st.integers(3, WORDS - 1), max_size=6).map(tuple)
    captions = [Chunk(item, tuple(draw(words) for _ in range(group))) for item in range(items)]
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(items, cells, 6, generator=generator)
    mask = torch.rand(items, cells, generator=generator) < 0.7
    mask[:, draw(st.integers(0, cells - 1))] = True
    return Batch(vectors, mask, *collate(captions), tuple(range(items)))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def gradients(loss: Tensor, decoder: AttentionDecoder) -> dict[str, Tensor]:
    names, weights = zip(*decoder.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return {
        name: torch.zeros_like(weight) if grad is None else grad
        for name, weight, grad in zip(names, weights, found, strict=True)
    }


def check(ours: Tensor, theirs: Tensor, decoder: AttentionDecoder, tolerance: float) -> None:
    """Compare losses and gradients; the tolerance of gradients grows with the largest one."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    own, other = gradients(ours, decoder), gradients(theirs, decoder)
    size = max(1.0, *(float(g.abs().max()) for g in other.values()))
    for name, grad in own.items():
        torch.testing.assert_close(
            grad, other[name], rtol=tolerance, atol=tolerance * size, msg=lambda m, n=name: n + m
        )


@settings(max_examples=60, deadline=None)
@given(batches(), kinds, objectives, precisions)
def test_soft_attention_trains_by_the_equations(
    batch: Batch, kind: dict[str, Any], weights: dict[str, float], precision: torch.dtype
) -> None:
    """Dropout on: the textbook drops what the same seed drops."""
    batch = replace(batch, vectors=batch.vectors.to(precision))
    decoder = toys.decoder(dropout=0.4, **kind).to(precision).train()
    config = ObjectiveConfig(**weights)
    projected = decoder.project(batch.vectors, batch.mask)
    ours = CrossEntropy(config).loss(decoder, projected, batch, generator()).total
    kept = draw_kept(decoder.config, len(batch.mask), batch.tokens, precision, generator())
    theirs = Textbook(decoder).cross_entropy(batch, config, kept)
    check(ours, theirs, decoder, TOLERANCE[precision])


@settings(max_examples=60, deadline=None)
@given(batches(), kinds, objectives, st.sampled_from(["sum", "mean"]), precisions)
def test_hard_attention_trains_by_the_equations(
    batch: Batch, kind: dict[str, Any], weights: dict[str, float], reward: str,
    precision: torch.dtype,
) -> None:  # fmt: skip
    """Dropout off: the cells that were sampled are drawn again and given to the textbook."""
    kind = kind | {"embedding_dropout": 0.0}
    batch = replace(batch, vectors=batch.vectors.to(precision))
    decoder = toys.decoder(attention="hard", dropout=0.0, **kind).to(precision).train()
    objective = HardAttentionObjective(ObjectiveConfig(reward=reward, lambda_e=0.1, **weights))
    objective.started.fill_(True)
    objective.baseline.fill_(-1.25)
    projected = decoder.project(batch.vectors, batch.mask)
    ours = objective.loss(decoder, projected, batch, generator()).total
    again = generator()
    group = len(batch.tokens) // len(batch.mask)
    expected = torch.rand(len(batch.mask), generator=again) < 0.5
    expected = expected.repeat_interleave(group)
    drawn = decoder(batch.tokens, projected, context=expected, generator=again)
    theirs = Textbook(decoder).hard_attention(
        batch, objective.config, location=drawn.location, looks=~expected, baseline=-1.25
    )
    check(ours, theirs, decoder, TOLERANCE[precision])


@settings(max_examples=20, deadline=None)
@given(batches(), st.sampled_from(["none", "scalar", "feature"]), objectives)
def test_plain_pytorch_does_the_same_work(
    batch: Batch, gate: str, weights: dict[str, float]
) -> None:
    decoder = toys.decoder(gate=gate, dropout=0.4).train()
    config = ObjectiveConfig(**weights)
    kept = draw_kept(decoder.config, len(batch.mask), batch.tokens, torch.float32, generator())
    theirs = Textbook(decoder).cross_entropy(batch, config, kept)
    check(Plain(decoder).loss(batch, config, generator()), theirs, decoder, 1e-5)


def test_what_the_others_have_no_equation_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="position"):
        Textbook(toys.decoder(position="learned", grid_shape=(2, 2)))
    with pytest.raises(ConfigError, match="hard"):
        Plain(toys.decoder(attention="hard"))
