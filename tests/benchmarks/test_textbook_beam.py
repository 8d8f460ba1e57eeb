"""Captions, scores, alternatives and traces of `decode` against the textbook search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.plain import Plain
from benchmarks.textbook import Textbook
from benchmarks.textbook_beam import search
from regard.backends.torch_backend import TorchBackend
from regard.decoding import DecodingOptions, decode
from regard.types import Annotations
from tests.helpers import toys

IDS: dict[str, Any] = {"start": 1, "end": 2, "forbidden": (0, 1, 3)}
UNLISTED = (0, 1)


def pictures(items: int, cells: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(items, cells, 6, generator=generator)
    mask = torch.rand(items, cells, generator=generator) < 0.7
    mask[:, 0] = True
    return vectors, mask


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(0, 2**16),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from(["additive", "dot", "scaled_dot"]),
    st.sampled_from(["none", "scalar", "feature"]),
    st.sampled_from([1, 4, 20]),
)
def test_beams_find_what_the_textbook_finds(
    items: int, cells: int, seed: int, width: int, penalty: float, scores: str, gate: str,
    longest: int,
) -> None:  # fmt: skip
    decoder = toys.decoder(scores=scores, gate=gate, seed=seed)
    vectors, mask = pictures(items, cells, seed)
    options = DecodingOptions(
        beam=width, n_best=width, max_length=longest, length_penalty=penalty, alternatives=4
    )
    together = decode(
        TorchBackend(None, decoder), Annotations(vectors, mask, ()), options, unlisted=UNLISTED,
        **IDS,
    )  # fmt: skip
    textbook = Textbook(decoder)
    for n, found in enumerate(together):
        beams = search(
            textbook, vectors[n], mask[n], width=width, n_best=width, max_length=longest,
            length_penalty=penalty, alternatives=4, unlisted=UNLISTED, **IDS,
        )  # fmt: skip
        assert [h.tokens for h in found] == [b.words for b in beams]
        assert [h.finished for h in found] == [b.finished for b in beams]
        for h, b in zip(found, beams, strict=True):
            assert h.score == pytest.approx(b.score, abs=1e-4)
            np.testing.assert_allclose(h.logprobs, b.logprobs, atol=1e-4)
            alpha = np.stack([a.numpy() for a in b.alphas]) if b.words else np.zeros((0, cells))
            np.testing.assert_allclose(h.alpha, alpha, atol=1e-5)
            if h.beta is not None:
                np.testing.assert_allclose(h.beta, b.betas, atol=1e-5)
            for pairs, others in zip(h.alternatives, b.alternatives, strict=True):
                assert [word for word, _ in pairs] == [word for word, _ in others]
                np.testing.assert_allclose([p for _, p in pairs], [p for _, p in others], atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**16), st.integers(1, 4))
def test_plain_pytorch_finds_the_same_captions(items: int, seed: int, width: int) -> None:
    decoder = toys.decoder(seed=seed)
    vectors, mask = pictures(items, 5, seed)
    options = DecodingOptions(beam=width, max_length=8)
    found = decode(TorchBackend(None, decoder), Annotations(vectors, mask, ()), options, **IDS)
    plain = Plain(decoder).beam(vectors, mask, width=width, max_length=8, **IDS)
    finished = [n for n, (best,) in enumerate(found) if best.finished]
    for n in finished:
        assert plain[n][0] == found[n][0].tokens
        assert plain[n][1] == pytest.approx(found[n][0].score, abs=1e-4)


def test_greedy_is_the_textbook_search_of_width_one() -> None:
    decoder = toys.decoder(seed=3)
    vectors, mask = pictures(6, 5, 3)
    options = DecodingOptions(method="greedy", max_length=7)
    found = decode(TorchBackend(None, decoder), Annotations(vectors, mask, ()), options, **IDS)
    for n, (best,) in enumerate(found):
        (beam,) = search(Textbook(decoder), vectors[n], mask[n], width=1, max_length=7, **IDS)
        assert (best.tokens, best.finished) == (beam.words, beam.finished)
