"""Laws of decoding, on a toy backend whose probabilities are known, in numpy and torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from regard.backends.torch_backend import TorchBackend
from regard.decoding import DecodingOptions, decode
from regard.decoding.single import keep_likely
from regard.errors import ConfigError
from regard.types import Annotations, DecoderState, ProjectedAnnotations, Step

START, END = 0, 1


class Table:
    """A backend whose next-word logits depend on the item and the last two words alone."""

    def __init__(self, seed: int, words: int = 5, tensors: bool = False) -> None:
        generator = np.random.default_rng(seed)
        self.logits = generator.normal(size=(4, words, words, words)) * 2
        self.tensors = tensors

    def asarray(self, x):
        return torch.as_tensor(x) if self.tensors else np.asarray(x)

    def generator(self, seed: int):
        return None

    def encode(self, pixels, grids):
        raise AssertionError("not used")

    def init_state(self, annotations, captions_per_item=1):
        items = np.asarray(annotations.vectors)[:, 0, 0].astype(np.int64)
        rows = np.repeat(items, captions_per_item)
        hidden = np.stack([rows, np.zeros_like(rows)], 1)
        values = self.asarray(np.zeros((len(items), 2, 1)))
        projected = ProjectedAnnotations(values, values, self.asarray(np.ones((len(items), 2)) > 0))
        return projected, DecoderState(self.asarray(hidden), self.asarray(hidden))

    def step(self, token, state, projected, *, context="expected", generator=None):
        hidden, last = np.asarray(state.hidden), np.asarray(token)
        logits = self.logits[hidden[:, 0], hidden[:, 1], last]
        after = self.asarray(np.stack([hidden[:, 0], last], 1))
        alpha = np.stack([0.1 * last, 1 - 0.1 * last], 1)
        return Step(self.asarray(logits), DecoderState(after, after), self.asarray(alpha),
                    beta=self.asarray(alpha[:, :1]))  # fmt: skip


def items(*numbers: int) -> Annotations:
    vectors = np.array(numbers, float)[:, None, None]
    return Annotations(vectors, np.ones((len(numbers), 1), bool), ())


def run(backend, which=(0,), **options):
    return decode(backend, items(*which), DecodingOptions(**options), start=START, end=END,
                  forbidden=(START,))  # fmt: skip


def exhaustive(table: Table, item: int, longest: int) -> list[tuple[float, tuple[int, ...]]]:
    """Score every caption of up to `longest` words."""
    found = []
    for length in range(longest + 1):
        for words in itertools.product(range(2, 5), repeat=length):
            said, score = (START, START, *words), 0.0
            for t, word in enumerate((*words, END)):
                row = table.logits[item, said[t], said[t + 1]]
                score += row[word] - np.log(np.exp(row).sum())
            found.append((float(score), words))
    return sorted(found, reverse=True)


seeds = st.integers(0, 10_000)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_wide_beam_equals_exhaustive_search(seed: int) -> None:
    table = Table(seed)
    best = run(table, max_length=3, beam=27, n_best=3)[0]
    for hypothesis, (score, words) in zip(best, exhaustive(table, 0, 3), strict=False):
        assert hypothesis.tokens == words
        assert hypothesis.score == pytest.approx(score)
        assert hypothesis.finished


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([False, True]))
def test_beam_one_equals_greedy(seed: int, tensors: bool) -> None:
    table = Table(seed, tensors=tensors)
    greedy = run(table, (0, 1, 2, 3), method="greedy", max_length=6)
    beam = run(table, (0, 1, 2, 3), beam=1, max_length=6)
    for (one,), (other,) in zip(greedy, beam, strict=True):
        assert one.tokens == other.tokens
        assert one.finished == other.finished
        assert one.score == pytest.approx(other.score)
        np.testing.assert_allclose(one.alpha, other.alpha)
        np.testing.assert_allclose(one.logprobs, other.logprobs)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 4), st.floats(0, 1.5))
def test_a_batch_equals_one_by_one_and_numpy_equals_torch(
    seed: int, beam: int, penalty: float
) -> None:
    options = {"beam": beam, "max_length": 5, "length_penalty": penalty, "n_best": beam}
    together = run(Table(seed), (0, 1, 2, 3), **options)
    for item in range(4):
        for tensors in (False, True):
            alone = run(Table(seed, tensors=tensors), (item,), **options)[0]
            assert [h.tokens for h in alone] == [h.tokens for h in together[item]]
            for one, other in zip(alone, together[item], strict=True):
                np.testing.assert_allclose(one.alpha, other.alpha, rtol=1e-5)
                assert one.score == pytest.approx(other.score)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(["greedy", "beam", "sample"]))
def test_the_trace_is_as_long_as_the_caption_and_belongs_to_its_words(
    seed: int, method: str
) -> None:
    found = run(Table(seed), (0, 1), method=method, max_length=6, min_length=1)
    for best, *_ in found:
        assert len(best.tokens) == len(best.alpha) == len(best.beta) == len(best.alternatives)
        read = (START, *best.tokens[:-1])  # the toy's attention says which word was read
        np.testing.assert_allclose(best.alpha[:, 0], 0.1 * np.array(read), rtol=1e-6)
        for word, logprob, others in zip(
            best.tokens, best.logprobs, best.alternatives, strict=True
        ):
            assert list(others) == sorted(others, key=lambda pair: -pair[1])
            known = dict(others)
            assert word not in known or known[word] == pytest.approx(logprob)


def test_unfinished_captions_are_returned_and_flagged() -> None:
    table = Table(0)
    table.logits[..., END] = -30.0
    for method in ("greedy", "beam"):
        (best,) = run(table, method=method, max_length=4)[0]
        assert not best.finished
        assert len(best.tokens) == 4
        assert best.score == pytest.approx(best.logprobs.sum())


def test_length_penalty_by_hand() -> None:
    for penalty in (0.0, 0.7):
        (best,) = run(Table(3), max_length=6, length_penalty=penalty)[0]
        plain = exhaustive(Table(3), 0, len(best.tokens))
        total = next(score for score, words in plain if words == best.tokens)
        assert best.score == pytest.approx(total / (len(best.tokens) + 1) ** penalty)


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_ngram_blocking_prefix_banned_and_lengths(method: str) -> None:
    for seed in range(10):
        found = run(Table(seed), (0, 1), method=method, max_length=8, block_ngram=2)
        for best, *_ in found:
            pairs = list(itertools.pairwise(best.tokens))
            assert len(pairs) == len(set(pairs))
        (best, *_) = run(Table(seed), method=method, prefix=(4, 2), max_length=5)[0]
        assert best.tokens[:2] == (4, 2)
        row = Table(seed).logits[0, START, START]
        assert best.logprobs[0] == pytest.approx(row[4] - np.log(np.exp(row).sum()))
        (best, *_) = run(Table(seed), method=method, banned=(3,), max_length=5)[0]
        assert 3 not in best.tokens
        (best, *_) = run(Table(seed), method=method, min_length=3, max_length=5)[0]
        assert len(best.tokens) >= 3


def test_samples_follow_the_distribution() -> None:
    """4,000 draws of the first word; 0.04 is over five standard deviations."""
    table = Table(5)
    found = run(table, method="sample", n_best=4000, max_length=1, min_length=1)[0]
    shares = np.bincount([h.tokens[0] for h in found], minlength=5) / 4000
    p = np.exp(table.logits[0, START, START])
    p[[START, END]] = 0
    assert np.abs(shares - p / p.sum()).max() < 0.04


def test_top_k_and_top_p_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]))
    kept = np.isfinite(keep_likely(logits, DecodingOptions(method="sample", top_k=1)))
    assert kept.tolist() == [[True, False, False, False], [False, False, False, True]]
    kept = np.isfinite(keep_likely(logits, DecodingOptions(method="sample", top_p=0.7)))
    assert kept.tolist() == [[True, True, False, False], [False, False, True, True]]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"method": "bem"}, "bem"),
        ({"context": "soft"}, "context"),
        ({"beam": 0}, "beam"),
        ({"block_ngram": -1}, "block_ngram"),
        ({"method": "sample", "temperature": 0.0}, "temperature"),
        ({"temperature": 0.5}, "temperature.*beam|beam.*temperature"),
        ({"beam": 2, "n_best": 3}, "n_best=3.*beam=2"),
        ({"method": "greedy", "n_best": 2}, "n_best.*greedy"),
        ({"min_length": 9, "max_length": 8}, "min_length.*max_length"),
        ({"prefix": (2, 2), "max_length": 1}, "prefix.*max_length"),
    ],
)
def test_clashing_options_are_refused_by_name(options: dict, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        DecodingOptions(**options)


@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_the_torch_backend_decodes_padded_items_as_it_does_alone(attention: str) -> None:
    backend = TorchBackend(None, toys.decoder(attention=attention))
    vectors = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    names = {"start": 1, "end": 2, "forbidden": (0, 1, 3)}
    options = DecodingOptions(max_length=6, context="argmax")
    both = decode(backend, Annotations(vectors, mask, ()), options, **names)
    alone = Annotations(vectors[1:, :4], mask[1:, :4], ())
    (best,) = decode(backend, alone, options, **names)[0]
    assert best.tokens == both[1][0].tokens
    np.testing.assert_allclose(best.alpha, both[1][0].alpha[:, :4], rtol=1e-4, atol=1e-6)
    assert (both[1][0].alpha[:, 4:] == 0).all()
    assert (best.location is None) == (attention == "soft")
