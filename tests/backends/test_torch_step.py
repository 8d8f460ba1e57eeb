"""The fast step against `AttentionDecoder.step`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.backends.torch_backend import TorchBackend, TorchStep
from regard.decoding import DecodingOptions, decode
from regard.errors import UnknownName
from regard.native import dispatch
from regard.native.cpp_library import library
from regard.native.cpp_step import PackedAnnotations
from regard.native.vocabulary_search import VocabularyLayer
from regard.text.vocabulary import END, PAD, START, UNKNOWN
from regard.types import Annotations, Hypothesis, ProjectedAnnotations, Step
from tests.helpers import toys

pytestmark = pytest.mark.skipif(library(torch.float32) is None, reason="no C++ compiler")


def compare(one: Step, other: Step, tolerance: float) -> None:
    for name in ("logits", "alpha", "beta", "location_logprob"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=name)
    torch.testing.assert_close(one.location, other.location) if one.location is not None else None
    for name in ("hidden", "memory"):
        a, b = getattr(one.state, name), getattr(other.state, name)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=name)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 2**16),
    st.sampled_from(["soft", "hard"]),
    st.sampled_from(["additive", "dot", "scaled_dot"]),
    st.sampled_from(["none", "scalar", "feature"]),
    st.sampled_from(["tanh", "linear"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["expected", "argmax", "sample"]),
)
def test_the_fast_step_is_the_step(
    items: int, group: int, cells: int, seed: int, attention: str, scores: str, gate: str,
    activation: str, dtype: torch.dtype, context: str,
) -> None:  # fmt: skip
    decoder = toys.decoder(
        attention=attention, scores=scores, gate=gate, output_activation=activation,
        temperature=0.8, seed=seed,
    ).to(dtype)  # fmt: skip
    fast = TorchStep.from_decoder(decoder)
    assert fast is not None
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(items, cells, 6, generator=generator, dtype=dtype)
    mask = torch.rand(items, cells, generator=generator) < 0.6
    mask[:, -1] = True
    token = torch.randint(0, 12, (items * group,), generator=generator)
    with torch.inference_mode():
        projected = decoder.project(vectors, mask)
        state = decoder.init_state(projected, group)
        ready = fast.pack(projected)
        for _ in range(3):
            draw = [torch.Generator().manual_seed(seed) for _ in range(2)]
            plain = decoder.step(token, state, projected, context=context, generator=draw[0])
            step = fast(token, state, ready, context=context, generator=draw[1])
            compare(step, plain, 1e-4 if dtype == torch.float32 else 1e-9)
            state, token = plain.state, plain.logits.argmax(-1)


@pytest.mark.parametrize("scores", ["additive", "dot"])
def test_keys_are_spent_only_where_nobody_needs_them(scores: str) -> None:
    decoder = toys.decoder(scores=scores)
    fast = TorchStep.from_decoder(decoder)
    assert fast is not None
    with torch.inference_mode():
        projected = decoder.project(torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
        before = projected.keys.clone()
        kept = fast.pack(projected)
        assert torch.equal(projected.keys, before)
        spent = fast.pack(projected, in_place=True)
    np.testing.assert_array_equal(kept.keys, spent.keys)
    assert np.shares_memory(spent.keys, projected.keys.numpy())


def test_the_backend_spends_the_keys_that_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = toys.decoder()
    made: list[np.ndarray] = []
    project = decoder.project

    def noted(*given: torch.Tensor) -> ProjectedAnnotations:
        projected = project(*given)
        made.append(projected.keys.numpy())
        return projected

    monkeypatch.setattr(decoder, "project", noted)
    annotations = Annotations(torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool), ())
    ready, _ = TorchBackend(None, decoder).init_state(annotations)
    assert np.shares_memory(ready.keys, made[0])


def test_items_that_leave_leave_the_others_as_they_were() -> None:
    decoder = toys.decoder()
    fast = TorchStep.from_decoder(decoder)
    assert fast is not None
    vectors, mask = torch.randn(4, 5, 6), torch.ones(4, 5, dtype=torch.bool)
    with torch.inference_mode():
        ready = fast.pack(decoder.project(vectors, mask))
        state = decoder.init_state(decoder.project(vectors, mask), 2)
        token = torch.arange(8) + 3
        every = fast(token, state, ready)
        rows = torch.tensor([2, 3, 6, 7])
        some = fast(token[rows], state.select(rows), ready.select(np.array([1, 3])))
        again = fast(token[[6, 7]], state.select(rows[2:]), ready.select(np.array([1, 3]))
                     .select(np.array([1])))  # fmt: skip
    assert torch.equal(some.logits, every.logits[rows])
    assert torch.equal(again.alpha, every.alpha[6:])


@pytest.mark.parametrize(
    "options",
    [
        {"method": "greedy"},
        {"beam": 5, "n_best": 3, "block_ngram": 2, "length_penalty": 0.7},
        {"min_length": 4, "prefix": (700, 31)},
        {"banned": tuple(range(100, 200))},  # more than are looked for and dropped
        {"alternatives": 0},
        {"method": "sample", "n_best": 2, "top_k": 40},
    ],
)
def test_a_large_vocabulary_is_searched_alike(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its strongest words are found without all logits (`regard.native.vocabulary_search`)."""
    monkeypatch.setattr(dispatch, "int16_pays", lambda _: True)  # whatever processor this is
    decoder = toys.decoder(words=3000)
    with torch.no_grad():
        decoder.output.weight.mul_(4)
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(7, 5, 6, generator=generator)
    annotations = Annotations(vectors, torch.ones(7, 5, dtype=torch.bool), ())
    chosen = DecodingOptions(max_length=8, **options)

    def captions() -> list[tuple[Hypothesis, ...]]:
        ids = {"start": START, "end": END, "forbidden": (PAD, START, UNKNOWN)}
        return decode(TorchBackend(None, decoder), annotations, chosen, **ids)

    fast = captions()
    monkeypatch.setenv("REGARD_KERNELS", "plain")
    for one, other in zip(fast, captions(), strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
            np.testing.assert_allclose(a.alpha, b.alpha, atol=1e-5)
            for said, wanted in zip(a.alternatives, b.alternatives, strict=True):
                assert [word for word, _ in said] == [word for word, _ in wanted]
                np.testing.assert_allclose([p for _, p in said], [p for _, p in wanted], atol=1e-4)


def test_sampling_computes_all_logits_and_nothing_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "int16_pays", lambda _: True)
    asked: list[str] = []
    full, some = VocabularyLayer.full, VocabularyLayer.strongest
    monkeypatch.setattr(VocabularyLayer, "full", lambda *given: asked.append("all") or full(*given))
    monkeypatch.setattr(
        VocabularyLayer, "strongest", lambda *given: asked.append("some") or some(*given)
    )
    annotations = Annotations(torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool), ())
    backend = TorchBackend(None, toys.decoder(words=3000))
    for method, wanted in (("sample", {"all"}), ("greedy", {"some"}), ("beam", {"some"})):
        asked.clear()
        chosen = DecodingOptions(method=method, max_length=3)
        decode(backend, annotations, chosen, start=START, end=END)
        assert set(asked) == wanted
        assert len(asked) <= 4  # once a step


def test_the_backend_notices_that_weights_changed() -> None:
    decoder = toys.decoder()
    backend = TorchBackend(None, decoder)
    annotations = Annotations(torch.randn(1, 5, 6), torch.ones(1, 5, dtype=torch.bool), ())
    token = torch.tensor([4])
    for _ in range(2):
        projected, state = backend.init_state(annotations)
        assert isinstance(projected, PackedAnnotations)
        step = backend.step(token, state, projected)
        with torch.inference_mode():
            plain = decoder.step(
                token, state, decoder.project(annotations.vectors, annotations.mask)
            )
        compare(step, plain, 1e-5)
        with torch.no_grad():
            decoder.lstm_recurrent.weight.mul_(1.5)


def test_what_it_cannot_do_is_left_to_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TorchStep.from_decoder(toys.decoder(scores="uniform")) is None
    assert TorchStep.from_decoder(toys.decoder().bfloat16()) is None
    monkeypatch.setenv("REGARD_KERNELS", "plain")
    assert TorchStep.from_decoder(toys.decoder()) is None


def test_an_unknown_context_is_refused() -> None:
    decoder = toys.decoder(attention="hard")
    fast = TorchStep.from_decoder(decoder)
    assert fast is not None
    with torch.inference_mode():
        projected = decoder.project(torch.randn(1, 5, 6), torch.ones(1, 5, dtype=torch.bool))
        state = decoder.init_state(projected)
        with pytest.raises(UnknownName, match="best"):
            fast(torch.tensor([4]), state, fast.pack(projected), context="best")
