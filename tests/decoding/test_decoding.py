"""Laws of decoding, on a toy backend whose probabilities are known, in numpy and torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.backends.torch_backend import TorchBackend
from regard.decoding import DecodingOptions, decode
from regard.types import Annotations, DecoderState, Hypothesis, ProjectedAnnotations, Step
from tests.helpers import toys

START, END = 0, 1


class Table:
    """A backend whose next-word logits depend on the item and the last two words alone."""

    def __init__(self, seed: int, words: int = 5, tensors: bool = False) -> None:
        generator = np.random.default_rng(seed)
        self.logits = generator.normal(size=(4, words, words, words)) * 2
        self.tensors = tensors
        self.steps = 0

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
        assert len(last) % len(projected.values) == 0
        self.steps += 1
        logits = self.logits[hidden[:, 0], hidden[:, 1], last]
        after = self.asarray(np.stack([hidden[:, 0], last], 1))
        alpha = np.stack([0.1 * last, 1 - 0.1 * last], 1)
        return Step(self.asarray(logits), DecoderState(after, after), self.asarray(alpha),
                    beta=self.asarray(alpha[:, :1]), location=self.asarray(last % 2))  # fmt: skip


def items(*numbers: int) -> Annotations:
    vectors = np.array(numbers, float)[:, None, None]
    return Annotations(vectors, np.ones((len(numbers), 1), bool), ())


def run(backend, which=(0,), **options):
    return decode(backend, items(*which), DecodingOptions(**options), start=START, end=END,
                  forbidden=(START,), unlisted=(START,))  # fmt: skip


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - np.log(np.exp(row).sum())


def exhaustive(table: Table, item: int, longest: int) -> list[tuple[float, tuple[int, ...]]]:
    """Score every caption of up to `longest` words."""
    found = []
    for length in range(longest + 1):
        for words in itertools.product(range(2, 5), repeat=length):
            said, score = (START, START, *words), 0.0
            for t, word in enumerate((*words, END)):
                score += log_softmax(table.logits[item, said[t], said[t + 1]])[word]
            found.append((float(score), words))
    return sorted(found, reverse=True)


seeds = st.integers(0, 10_000)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0, 1.5))
def test_a_wide_beam_equals_exhaustive_search(seed: int, penalty: float) -> None:
    """Early stopping included: it must never stop before the best three are known."""
    best = run(Table(seed), max_length=3, beam=27, n_best=3, length_penalty=penalty)[0]
    every = [(s / (len(w) + 1) ** penalty, w) for s, w in exhaustive(Table(seed), 0, 3)]
    for hypothesis, (score, words) in zip(best, sorted(every, reverse=True)[:3], strict=True):
        assert hypothesis.tokens == words
        assert hypothesis.score == pytest.approx(score)
        assert hypothesis.finished


@settings(max_examples=30, deadline=None)
@given(seeds, st.booleans(), st.floats(0, 1.5), st.integers(0, 2), st.integers(0, 4))
def test_beam_one_equals_greedy(
    seed: int, tensors: bool, penalty: float, block: int, shortest: int
) -> None:
    options = {
        "max_length": 6, "length_penalty": penalty, "block_ngram": block, "min_length": shortest
    }  # fmt: skip
    greedy = run(Table(seed, tensors=tensors), (0, 1, 2, 3), method="greedy", **options)
    beam = run(Table(seed, tensors=tensors), (0, 1, 2, 3), beam=1, **options)
    for (one,), (other,) in zip(greedy, beam, strict=True):
        same_hypothesis(one, other)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 4), st.floats(0, 1.5), st.sampled_from(["beam", "sample"]))
def test_a_batch_equals_one_by_one_and_numpy_equals_torch(
    seed: int, count: int, penalty: float, method: str
) -> None:
    options = {"method": method, "max_length": 5, "length_penalty": penalty, "n_best": count}
    options |= {"beam": count} if method == "beam" else {"top_p": 0.9, "seed": seed}
    together = run(Table(seed), (0, 1, 2, 3), **options)
    for item in range(4):
        for tensors in (False, True):
            alone = run(Table(seed, tensors=tensors), (item,), **options)[0]
            for one, other in zip(alone, together[item], strict=True):
                same_hypothesis(one, other)


def same_hypothesis(one: Hypothesis, other: Hypothesis) -> None:
    assert one.tokens == other.tokens
    assert one.finished == other.finished
    assert one.score == pytest.approx(other.score)
    np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-6)
    for name in ("alpha", "beta", "location"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)
    for pairs, others in zip(one.alternatives, other.alternatives, strict=True):
        np.testing.assert_allclose(pairs, others, rtol=1e-6)


METHODS = ("greedy", "beam", "sample")


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(METHODS), st.integers(0, 2), st.booleans())
def test_the_trace_belongs_to_the_words(
    seed: int, method: str, block: int, with_prefix: bool
) -> None:
    options = {"method": method, "max_length": 6, "block_ngram": block, "banned": (3,)}
    table = Table(seed)
    for item, (best, *_) in enumerate(
        run(table, (0, 1), prefix=(2, 4) if with_prefix else (), **options)
    ):
        read = np.array((START, *best.tokens)[: len(best.tokens)], int)
        assert best.alpha.dtype == np.float32
        np.testing.assert_allclose(best.alpha, np.stack([0.1 * read, 1 - 0.1 * read], 1), rtol=1e-6)
        np.testing.assert_allclose(best.beta, 0.1 * read)
        np.testing.assert_array_equal(best.location, read % 2)
        before = (START, START, *best.tokens)
        for t, word in enumerate(best.tokens):
            # Of the model itself: neither prefix nor ban nor blocking changes what it thinks.
            model = log_softmax(table.logits[item, before[t], before[t + 1]])
            assert best.logprobs[t] == pytest.approx(model[word])
            order = np.argsort(-model)
            order = order[order != START]  # no alternative; END is one, and the banned 3
            assert [i for i, _ in best.alternatives[t]] == order.tolist()
            np.testing.assert_allclose([p for _, p in best.alternatives[t]], model[order])
        assert len(best.logprobs) == len(best.alternatives) == len(best.tokens)


@pytest.mark.parametrize("method", METHODS)
def test_a_caption_of_no_words_has_an_empty_trace(method: str) -> None:
    table = Table(0)
    table.logits[..., END] = 30.0
    (best,) = run(table, method=method)[0]
    assert best.finished
    assert (best.tokens, best.alternatives) == ((), ())
    assert best.alpha.shape == (0, 2)
    assert best.beta.shape == best.location.shape == best.logprobs.shape == (0,)


def test_alternatives_may_be_left_out() -> None:
    (best,) = run(Table(0), alternatives=0, min_length=2)[0]
    assert best.alternatives == ((),) * len(best.tokens)


@pytest.mark.parametrize("method", METHODS)
def test_unfinished_captions_are_returned_and_flagged(method: str) -> None:
    table = Table(0)
    table.logits[..., END] = -30.0
    (best,) = run(table, method=method, max_length=4, length_penalty=0.5)[0]
    assert not best.finished
    assert len(best.tokens) == 4
    assert best.score == pytest.approx(best.logprobs.sum() / 4**0.5)


def test_the_best_unfinished_beams_equal_exhaustive_search() -> None:
    table = Table(1)
    best = run(table, max_length=3, beam=27, n_best=27, banned=(END,))[0]
    assert not any(h.finished for h in best)
    every = []
    for words in itertools.product(range(2, 5), repeat=3):
        said = (START, START, *words)
        rows = [log_softmax(table.logits[0, said[t], said[t + 1]]) for t in range(3)]
        every.append((sum(row[w] for row, w in zip(rows, words, strict=True)), words))
    assert [h.tokens for h in best] == [words for _, words in sorted(every, reverse=True)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tensors", [False, True])
def test_where_no_word_may_follow_the_caption_stays_unfinished(method: str, tensors: bool) -> None:
    """Three words, none twice, and no end before the fifth."""
    options = {"method": method, "max_length": 6, "min_length": 5, "block_ngram": 1}
    (best, *_) = run(Table(2, tensors=tensors), **options)[0]
    assert sorted(best.tokens) == [2, 3, 4]
    assert not best.finished
    assert best.score == pytest.approx(best.logprobs.sum())
    (best, *_) = run(Table(2, tensors=tensors), method=method, banned=(END, 2, 3, 4))[0]
    assert (best.tokens, best.finished, best.score) == ((), False, 0.0)


def test_an_item_stops_when_no_live_caption_can_win() -> None:
    table = Table(0)
    table.logits[..., END] = 4.0
    run(table, (0, 1), max_length=50)
    assert table.steps < 10


def test_a_finished_caption_is_weighed_against_one_that_ends_later() -> None:
    """Ending at once has log 0.4; "2" and then the end has log 0.6 + log 0.5 = log 0.3.

    A plain sum prefers the first, the mean over 1 and 2 tokens the second.
    """
    table = Table(0)
    table.logits[:] = np.log([1e-9, 0.1, 1e-9, 0.5, 0.4])
    table.logits[0, START, START] = np.log([1e-9, 0.4, 0.6, 1e-9, 1e-9])
    table.logits[0, START, 2] = np.log([1e-9, 0.5, 1e-9, 0.3, 0.2])
    for penalty, tokens, score in ((0.0, (), np.log(0.4)), (1.0, (2,), np.log(0.3) / 2)):
        (best,) = run(table, beam=2, max_length=4, length_penalty=penalty)[0]
        assert best.tokens == tokens
        assert best.score == pytest.approx(score)


@pytest.mark.parametrize(("chance", "tokens"), [(0.1, (2, 3, 4, 4, 2)), (0.06, ())])
def test_a_live_caption_is_given_up_that_three_free_words_would_not_save(
    chance: float, tokens: tuple[int, ...]
) -> None:
    """The search drops a live caption that cannot win within three more words of probability 1.

    The empty caption scores log 0.6. After "2" the words "3 4 4 2" and the end have probability 1.
    With p(2) = 0.1, log 0.1 / 5 is above log 0.6, so the search continues. With p(2) = 0.06,
    log 0.06 / 5 is below it, so the search ends, although log 0.06 / 6 would be above it.
    """
    table = Table(0)
    table.logits[:] = np.log([1e-9, 1.0, 1e-9, 1e-9, 1e-9])
    table.logits[0, START, START] = np.log([0.4 - chance, 0.6, chance, 1e-9, 1e-9])
    for before, word, after in ((START, 2, 3), (2, 3, 4), (3, 4, 4), (4, 4, 2)):
        table.logits[0, before, word] = np.log([1e-9] * 5)
        table.logits[0, before, word, after] = 0.0
    (best,) = run(table, beam=2, max_length=9, length_penalty=1.0)[0]
    assert best.tokens == tokens


def test_an_end_outside_the_beam_is_no_find() -> None:
    """After "2" and "3" the candidates are 0.25 "2 4", 0.225 "2 END", 0.2 "3 END", 0.1 "3 2".

    The third would not have stayed in a beam of two, so "2 4 END" (0.15) comes second.
    """
    table = Table(0)
    table.logits[:] = np.log([1e-9, 1e-3, 0.4, 0.3, 0.3])
    table.logits[0, START, START] = np.log([1e-9, 1e-9, 0.5, 0.4, 0.1])
    table.logits[0, START, 2] = np.log([1e-9, 0.45, 0.03, 0.02, 0.5])
    table.logits[0, START, 3] = np.log([1e-9, 0.5, 0.25, 0.15, 0.1])
    table.logits[0, 2, 4] = np.log([1e-9, 0.6, 0.2, 0.1, 0.1])
    best = run(table, beam=2, n_best=2, max_length=4)[0]
    assert [h.tokens for h in best] == [(2,), (2, 4)]
    np.testing.assert_allclose([h.score for h in best], np.log([0.225, 0.15]), rtol=1e-6)


def possible(options: dict[str, int]) -> int:
    """Count the captions of words 2 to 4 that end, are as long as allowed, or cannot go on."""
    longest, shortest, block = (options[n] for n in ("max_length", "min_length", "block_ngram"))

    def grows(said: tuple[int, ...]) -> int:
        if len(said) == longest:
            return 1
        following = [(*said, word) for word in (2, 3, 4) if not repeats((*said, word))]
        ends = len(said) >= shortest or not following
        return ends + sum(map(grows, following))

    def repeats(said: tuple[int, ...]) -> bool:
        grams = [said[i : i + block] for i in range(len(said) - block + 1)] if block else []
        return len(set(grams)) < len(grams)

    return grows(())


@settings(max_examples=60, deadline=None)
@given(seeds, st.data(), st.floats(0, 1.5))
def test_n_best_are_as_many_as_asked_for(seed: int, data: st.DataObject, penalty: float) -> None:
    longest = data.draw(st.integers(1, 4))
    limits = {"max_length": longest, "min_length": data.draw(st.integers(0, longest)),
              "block_ngram": data.draw(st.integers(0, 2))}  # fmt: skip
    width = data.draw(st.integers(1, 12))
    count = data.draw(st.integers(1, width))
    options = limits | {"beam": width, "length_penalty": penalty}
    table = Table(seed)
    table.logits[..., END] += data.draw(st.sampled_from([-30.0, -3.0, 0.0, 3.0, 30.0]))
    found = run(table, (0, 1), n_best=count, **options)
    for several, (best,) in zip(found, run(table, (0, 1), **options), strict=True):
        assert len(several) == min(count, possible(limits))
        assert len({h.tokens for h in several}) == len(several)
        order = [(not h.finished, -h.score) for h in several]
        assert order == sorted(order)
        same_hypothesis(several[0], best)


def test_live_captions_fill_up_what_did_not_finish() -> None:
    """Of at most one word: "" ends with 0.7, "2" and "3" have 0.2 and 0.1 and end with 0.01."""
    table = Table(0)
    table.logits[:] = np.log([1e-9, 0.01, 0.5, 0.3, 0.19])
    table.logits[0, START, START] = np.log([1e-9, 0.7, 0.2, 0.1, 1e-9])
    best = run(table, beam=3, n_best=3, max_length=1)[0]
    assert [(h.tokens, h.finished) for h in best] == [((), True), ((2,), False), ((3,), False)]
    np.testing.assert_allclose([h.score for h in best], np.log([0.7, 0.2, 0.1]), rtol=1e-6)


def test_length_penalty_by_hand() -> None:
    for penalty in (0.0, 0.7):
        (best,) = run(Table(3), max_length=6, length_penalty=penalty)[0]
        plain = exhaustive(Table(3), 0, len(best.tokens))
        total = next(score for score, words in plain if words == best.tokens)
        assert best.score == pytest.approx(total / (len(best.tokens) + 1) ** penalty)


@pytest.mark.parametrize("method", METHODS)
def test_ngram_blocking_prefix_banned_and_lengths(method: str) -> None:
    for seed in range(10):
        found = run(Table(seed), (0, 1), method=method, max_length=8, block_ngram=2)
        for best, *_ in found:
            pairs = list(itertools.pairwise(best.tokens))
            assert len(pairs) == len(set(pairs))
        (best, *_) = run(Table(seed), method=method, prefix=(4, 2), max_length=5)[0]
        assert best.tokens[:2] == (4, 2)
        (best, *_) = run(Table(seed), method=method, banned=(3,), max_length=5)[0]
        assert 3 not in best.tokens
        (best, *_) = run(Table(seed), method=method, min_length=3, max_length=5)[0]
        assert len(best.tokens) >= 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-4, 1e-310])
def test_next_to_no_temperature_draws_the_most_likely_words(temperature: float) -> None:
    limits = {"max_length": 6}
    (cold,) = run(Table(3), method="sample", temperature=temperature, **limits)[0]
    assert cold.tokens == run(Table(3), method="greedy", **limits)[0][0].tokens


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_distribution(temperature: float) -> None:
    """4,000 draws of the first word; 0.04 is five standard deviations."""
    table = Table(5)
    options = {"max_length": 1, "min_length": 1, "temperature": temperature}
    found = run(table, method="sample", n_best=4000, **options)[0]
    shares = np.bincount([h.tokens[0] for h in found], minlength=5) / 4000
    p = np.exp(table.logits[0, START, START] / temperature)
    p[[START, END]] = 0
    assert np.abs(shares - p / p.sum()).max() < 0.04
    model = log_softmax(table.logits[0, START, START])
    assert found[0].logprobs[0] == pytest.approx(model[found[0].tokens[0]])  # not the tempered


def test_the_seed_decides_and_the_best_sample_comes_first() -> None:
    def words(seed: int) -> list[tuple[int, ...]]:
        found = run(Table(4), method="sample", n_best=8, seed=seed)[0]
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        return [h.tokens for h in found]

    assert words(1) == words(1)
    assert words(1) != words(2)


def test_sampling_the_one_likeliest_word_is_greedy() -> None:
    greedy = run(Table(6), (0, 1, 2), method="greedy", max_length=6)
    sampled = run(Table(6), (0, 1, 2), method="sample", top_k=1, max_length=6)
    for (one,), (other,) in zip(greedy, sampled, strict=True):
        same_hypothesis(one, other)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_the_torch_backend_decodes_padded_items_as_it_does_alone(
    attention: str, method: str
) -> None:
    backend = TorchBackend(None, toys.decoder(attention=attention))
    vectors = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    names = {"start": 1, "end": 2, "forbidden": (0, 1, 3)}
    context = "argmax" if attention == "hard" else "expected"
    options = DecodingOptions(method=method, max_length=6, min_length=2, context=context)
    both = decode(backend, Annotations(vectors, mask, ()), options, **names)
    alone = Annotations(vectors[1:, :4], mask[1:, :4], ())
    (best,) = decode(backend, alone, options, **names)[0]
    assert best.tokens == both[1][0].tokens
    np.testing.assert_allclose(best.alpha, both[1][0].alpha[:, :4], rtol=1e-4, atol=1e-6)
    assert (both[1][0].alpha[:, 4:] == 0).all()
    assert (best.location is None) == (attention == "soft")
