"""Laws of the pointer: the mixture, both ways to a word, and every way of decoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from regard.backends.torch_backend import TorchBackend, TorchStep
from regard.captioner import Captioner
from regard.config import DecodingConfig, ObjectiveConfig
from regard.decoding import DecodingOptions, decode
from regard.errors import CheckpointError
from regard.model.decoder import AttentionDecoder
from regard.native import dispatch
from regard.text.vocabulary import END, PAD, START, UNKNOWN
from regard.training.objectives.base import Batch
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.objectives.reinforce import HardAttentionObjective
from regard.training.objectives.self_critical import SelfCritical, sampled_logprob
from regard.types import Annotations, Hypothesis
from tests.helpers import pointing, toys

CELLS, FEATURES = 7, 6
DOG, DOGS, HYDRANT = (pointing.VOCABULARY.words.index(w) for w in ("dog", "dogs", "fire hydrant"))


def annotations(items: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(items, CELLS, generator=draw) < 0.7
    mask[:, 0] = True
    return torch.randn(items, CELLS, FEATURES, generator=draw), mask


def search(decoder: AttentionDecoder, pair: tuple[torch.Tensor, ...], **options: object):
    made = DecodingOptions(**({"max_length": 6, "min_length": 2} | options))  # type: ignore[arg-type]
    return decode(
        TorchBackend(None, decoder),
        Annotations(*pair, ()),  # type: ignore[arg-type]
        made,
        start=START,
        end=END,
        forbidden=(PAD, START, UNKNOWN),
    )


def assert_equal(one: Hypothesis, other: Hypothesis) -> None:
    assert one.tokens == other.tokens
    for name in ("logprobs", "alpha", "copy", "copied"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)
    np.testing.assert_array_equal(one.cell, other.cell)


@pytest.mark.parametrize("context", ["expected", "sample", "argmax"])
@torch.no_grad()
def test_probabilities_sum_to_1_and_their_parts_agree(context: str) -> None:
    decoder = pointing.decoder(attention="hard")
    projected = decoder.project(*annotations())
    state = decoder.init_state(projected, 2)
    draw = torch.Generator().manual_seed(1)
    token = torch.tensor([START, DOG, HYDRANT, 4, 5, DOGS])
    step = decoder.step(token, state, projected, context=context, generator=draw)
    assert step.copied is not None
    p = step.logits.exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(6))
    assert bool((step.copied <= p + 1e-6).all())
    assert bool((step.copied.sum(-1) > 0.01).all())
    words = set(step.copied.sum(0).nonzero().flatten().tolist())
    assert words == set(decoder.pointer.forms.flatten().tolist())  # type: ignore[union-attr]


def test_the_chosen_cell_decides_what_is_named() -> None:
    decoder = pointing.decoder(attention="hard")
    assert decoder.pointer is not None
    projected = decoder.project(*annotations())
    state = decoder.init_state(projected)
    token = torch.full((3,), START)
    step = decoder.step(token, state, projected, context="argmax")
    assert step.location is not None
    assert step.copied is not None
    assert projected.naming is not None
    there = projected.naming[torch.arange(3), step.location]
    share = step.copied[:, DOG] + step.copied[:, DOGS]
    hydrants = step.copied[:, [HYDRANT, HYDRANT + 1]].sum(-1)
    torch.testing.assert_close(share / hydrants, there[:, 0] / there[:, 1])
    found = search(decoder, annotations(), context="argmax", method="greedy")
    for (one,) in found:
        assert one.cell is not None
        assert one.location is not None
        assert all(
            cell in (-1, location) for cell, location in zip(one.cell, one.location, strict=True)
        )


@torch.no_grad()
def test_without_its_gate_it_is_the_plain_decoder() -> None:
    decoder = pointing.decoder()
    pointer = decoder.pointer
    assert pointer is not None
    pointer.switch.weight[0] = 0
    pointer.switch.bias[0] = -1e4
    plain = toys.decoder(words=len(pointing.VOCABULARY))
    own = decoder.state_dict()
    plain.load_state_dict({k: v for k, v in own.items() if not k.startswith("pointer")})
    token = torch.arange(len(pointing.VOCABULARY))
    plain.embedding.weight.copy_(pointer.embed(token, decoder.embedding.weight))
    for options in ({"method": "greedy"}, {"beam": 3}, {"method": "sample", "n_best": 2}):
        for ours, theirs in zip(
            search(decoder, annotations(), **options),
            search(plain, annotations(), **options),
            strict=True,
        ):
            for one, other in zip(ours, theirs, strict=True):
                assert one.tokens == other.tokens
                np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
                np.testing.assert_allclose(one.alpha, other.alpha, atol=1e-6)
                assert one.copy is not None
                assert not one.copy.any()
                assert other.copy is None
                assert other.copied is None
                assert other.cell is None


@pytest.mark.parametrize("settings", [{}, {"attention": "hard"}, {"concept_cells": True}])
def test_teacher_forcing_is_a_loop_of_steps(settings: dict[str, object], monkeypatch) -> None:
    decoder = pointing.decoder(**settings)
    context = "argmax" if settings.get("attention") == "hard" else "expected"
    projected = decoder.project(*annotations())
    tokens = torch.tensor([[START, 4, DOG], [START, HYDRANT, 5]]).repeat(3, 1)
    found = decoder(tokens, projected, context=context)
    state = decoder.init_state(projected, 2)
    for t in range(3):
        step = decoder.step(tokens[:, t], state, projected, context=context)
        torch.testing.assert_close(found.logits[:, t], step.logits, atol=1e-5, rtol=1e-5)
        state = step.state
    monkeypatch.setenv("REGARD_KERNELS", "plain")
    plain = decoder(tokens, projected, context=context)
    torch.testing.assert_close(found.logits, plain.logits, atol=1e-5, rtol=1e-5)
    losses = found.losses(tokens.roll(-1, 1), label_smoothing=0.1)
    logp = found.logits
    own = logp.gather(2, tokens.roll(-1, 1).unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(losses, -(0.9 * own + 0.1 * logp.mean(-1)))


def test_captions_whose_context_is_expected_are_named_from_all_cells() -> None:
    decoder = pointing.decoder(attention="hard")
    projected = decoder.project(*annotations())
    tokens = torch.tensor([[START, 4, DOG]] * 3)
    draw = torch.Generator().manual_seed(2)
    mixed = decoder(
        tokens, projected, context=torch.tensor([True, False, True]), generator=draw
    ).logits
    all_cells = decoder(tokens, projected, context="expected").logits
    torch.testing.assert_close(mixed[[0, 2]], all_cells[[0, 2]], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[1], all_cells[1], atol=1e-3)


def test_a_beam_of_one_is_greedy() -> None:
    decoder = pointing.decoder()
    pairs = [search(decoder, annotations(5), **o) for o in ({"beam": 1}, {"method": "greedy"})]
    for (one,), (other,) in zip(*pairs, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("options", [{"method": "greedy"}, {"beam": 3}, {"method": "sample"}])
def test_a_batch_is_its_items_and_padding_changes_nothing(options: dict[str, object]) -> None:
    decoder = pointing.decoder(concept_cells=True)
    vectors, mask = annotations(4)
    together = search(decoder, (vectors, mask), **options)
    padded = torch.cat([vectors, torch.full((4, 3, FEATURES), 9.0)], 1)
    longer = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], 1)
    wide = search(decoder, (padded, longer), **options)
    for n in range(4):
        (alone,) = search(decoder, (vectors[n : n + 1], mask[n : n + 1]), **options)
        assert_equal(alone[0], together[n][0])
        assert wide[n][0].tokens == alone[0].tokens
        np.testing.assert_allclose(wide[n][0].logprobs, alone[0].logprobs, atol=1e-5)
        np.testing.assert_array_equal(wide[n][0].cell, alone[0].cell)


@torch.no_grad()
def test_the_plural_is_the_decoder_s_choice_and_a_phrase_is_one() -> None:
    decoder = pointing.decoder()
    assert decoder.pointer is not None
    decoder.pointer.switch.bias[0] = 20.0
    for bias, form in ((-20.0, 0), (20.0, 1)):
        decoder.pointer.switch.weight.zero_()
        decoder.pointer.switch.bias[1] = bias
        decoder.pointer.threshold.copy_(torch.tensor([50.0, -50.0, 50.0]))
        for (one,) in search(decoder, annotations(), beam=2, max_length=3):
            assert set(one.tokens) == {HYDRANT + form}
            assert one.copied is not None
            assert one.copied.min() > 0.99
            assert pointing.VOCABULARY.words[HYDRANT + 1] == "fire hydrants"


@torch.no_grad()
def test_both_ways_to_a_word_add_up() -> None:
    """So do two concepts of the same name."""
    decoder = pointing.decoder()
    pointer = decoder.pointer
    assert pointer is not None
    pointer.forms[2] = torch.tensor([DOG, DOG])  # two concepts called dog
    logits = torch.randn(2, len(pointing.VOCABULARY))
    deep, named = torch.randn(2, 8), torch.tensor([[0.2, 0.3, 0.4], [0.0, 0.5, 0.1]])
    found = pointer.mix(logits, deep, named)
    gate, many = torch.sigmoid(pointer.switch(deep)).unbind(-1)
    p = torch.softmax(logits, -1) * (1 - gate * named.sum(-1))[:, None]
    dog = p[:, DOG] + gate * (named[:, 0] * (1 - many) + named[:, 2])
    torch.testing.assert_close(found.logprob.exp()[:, DOG], dog)
    torch.testing.assert_close(found.logprob.exp()[:, DOGS], p[:, DOGS] + gate * named[:, 0] * many)
    torch.testing.assert_close(found.logprob.exp().sum(-1), torch.ones(2))


@torch.no_grad()
def test_banned_words_and_prefixes_hold_for_phrases() -> None:
    model = pointing.captioner()
    pointer = model.decoder.pointer
    assert pointer is not None
    pointer.threshold.copy_(torch.tensor([50.0, -50.0, 50.0]))
    pictures = [toys.picture(i, (32, 32)) for i in range(3)]
    said = model.caption(pictures, min_length=3, max_length=5)
    assert any("fire hydrant" in caption.text for caption in said)
    word = next(w for w in said[0].words if w.source == "concept")
    assert word.text.startswith("fire hydrant")
    assert word.cell is not None
    assert len(word.cell) == 2
    record = said[0].to_json()["words"][said[0].words.index(word)]
    assert record["source"] == "concept"
    assert record["cell"] == list(word.cell)
    assert 0.5 <= record["copy"] <= 1
    for banned in ("fire hydrant fire hydrants", ["fire hydrant", "fire hydrants"]):
        for caption in model.caption(pictures, min_length=3, max_length=5, banned=banned):
            assert "hydrant" not in caption.text
    begun = model.caption(pictures[0], prefix="a red fire hydrant sits", max_length=6)
    assert [w.text for w in begun.words[:4]] == ["a", "red", "fire hydrant", "sits"]
    blocked = model.caption(pictures, block_ngram=1, min_length=3, max_length=6)
    assert all(len({w.token for w in c.words}) == len(c.words) for c in blocked)


@torch.no_grad()
@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_a_concept_is_named_once_in_either_form(method: str, tmp_path: Path) -> None:
    model = pointing.captioner()
    pointer = model.decoder.pointer
    assert pointer is not None
    pointer.threshold.copy_(torch.tensor([-50.0, -50.0, -50.0]))
    pictures = [toys.picture(i, (32, 32)) for i in range(3)]
    concept_of = {form: c for c, pair in enumerate(pointing.CONCEPTS) for form in pair}
    options = {"method": method, "min_length": 5, "max_length": 7}

    def named(captioner: Captioner, **more: object) -> list[list[int]]:
        captions = captioner.caption(pictures, **options, **more)
        return [[concept_of[w.text] for w in c.words if w.text in concept_of] for c in captions]

    assert any(len(set(found)) < len(found) for found in named(model))
    once = named(model, name_once=True)
    assert all(len(set(found)) == len(found) for found in once)
    assert any(once)
    alone = [model.caption(p, **options, name_once=True).text for p in pictures]
    if method != "sample":  # which draws for the whole batch
        assert alone == [c.text for c in model.caption(pictures, **options, name_once=True)]
    # The option belongs to the model, and does nothing without a pointer.
    own = replace(model.config, decoding=DecodingConfig(name_once=True))
    kept = Captioner(model.encoder, model.decoder, model.vocabulary, own, name="kept")
    kept.save(tmp_path / "kept")
    again = Captioner.load(tmp_path / "kept")
    assert named(again) == once
    free = toys.captioner().caption(toys.picture(), method=method, name_once=True)
    assert free.text == toys.captioner().caption(toys.picture(), method=method).text


def test_other_models_captions_have_no_new_keys() -> None:
    word = toys.captioner().caption(toys.picture(), min_length=2).to_json()["words"][0]
    assert not {"source", "copy", "cell"} & set(word)


def test_a_saved_model_says_the_same(tmp_path) -> None:
    model = pointing.captioner(concept_cells=True)
    model.save(tmp_path / "model")
    again = Captioner.load(tmp_path / "model")
    pictures = [toys.picture(i, (32, 32)) for i in range(3)]
    for one, other in zip(model.caption(pictures), again.caption(pictures), strict=True):
        assert one.text == other.text
        assert one.score == other.score
        assert [w.copy for w in one.words] == [w.copy for w in other.words]
    assert again.concepts() == model.concepts()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.forms.fill_(len(pointing.VOCABULARY)), "another vocabulary"),
        (lambda p: p.forms.fill_(2), "another vocabulary"),
        (lambda p: p.vectors.mul_(1.5), "the length 1.5; expected 1"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused(tmp_path, change, message: str) -> None:
    model = pointing.captioner()
    change(model.decoder.pointer)
    model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message):
        Captioner.load(tmp_path / "model")


@pytest.mark.parametrize("hidden", [False, True])
def test_the_gradient_of_the_mixture_is_right(hidden: bool) -> None:
    pointer = pointing.decoder().double().pointer
    assert pointer is not None
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, len(pointing.VOCABULARY), generator=draw, dtype=torch.float64)
    deep = torch.randn(3, 8, generator=draw, dtype=torch.float64)
    named = torch.rand(3, 3, generator=draw, dtype=torch.float64) * 0.3
    out = torch.zeros(len(pointing.VOCABULARY), dtype=torch.bool)
    out[[DOG, DOGS]] = hidden

    def logprob(logits: torch.Tensor, deep: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
        return pointer.mix(logits.masked_fill(out, -torch.inf), deep, named).logprob

    inputs = tuple(x.requires_grad_() for x in (logits, deep, named))
    assert torch.autograd.gradcheck(logprob, inputs)


def batch(decoder: AttentionDecoder) -> Batch:
    vectors, mask = annotations(4)
    tokens = torch.tensor([[START, 4, DOG, 7], [START, 4, HYDRANT, PAD]] * 2)
    targets = torch.tensor([[4, DOG, 7, END], [4, HYDRANT, END, PAD]] * 2)
    return Batch(vectors, mask, tokens, targets, targets != PAD, (0, 1, 2, 3))


@pytest.mark.parametrize("kind", ["cross_entropy", "hard_attention", "self_critical"])
def test_every_objective_trains_the_gate_and_never_the_bank(kind: str) -> None:
    decoder = pointing.decoder(attention="hard" if kind == "hard_attention" else "soft").train()
    made = {
        "cross_entropy": lambda: CrossEntropy(ObjectiveConfig()),
        "hard_attention": lambda: HardAttentionObjective(ObjectiveConfig(kind=kind)),
        "self_critical": lambda: SelfCritical(
            ObjectiveConfig(kind=kind), lambda _, words: float(DOG in words), 5
        ),
    }[kind]()
    given = batch(decoder)
    teacher = torch.softmax(torch.randn(int(given.steps.sum()), len(pointing.VOCABULARY)), -1)
    given = given if kind == "self_critical" else replace(given, teacher=teacher)
    projected = decoder.project(given.vectors, given.mask)
    loss = made.loss(decoder, projected, given, torch.Generator().manual_seed(0)).total
    loss.backward()
    pointer = decoder.pointer
    assert pointer is not None
    gradients = [p.grad for p in decoder.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert pointer.switch.weight.grad is not None
    assert pointer.switch.weight.grad.abs().sum() > 0
    for fixed in (pointer.cell, pointer.whole):
        assert all(p.grad is None for p in fixed.parameters())
    assert pointer.sharpness.grad is None


def test_hidden_words_are_said_by_the_pointer_alone() -> None:
    decoder = pointing.decoder(concept_dropout=0.95, dropout=0.0).train()
    given = batch(decoder)
    projected = decoder.project(given.vectors, given.mask)
    found = decoder(given.tokens, projected, generator=torch.Generator().manual_seed(1))
    assert found.pointed is not None
    assert found.pointed.hidden is not None
    hidden = found.pointed.hidden
    assert bool(hidden.any())
    assert not bool(hidden[4])
    said = decoder.pointer.mix(  # type: ignore[union-attr]
        found.output(found.features), found.features, found.pointed.named
    )
    rows = found.row_logits()[:, hidden].exp()
    torch.testing.assert_close(rows, said.copied[:, hidden].clamp_min(1e-8))


def test_sampled_words_sum_to_1_among_those_that_are_sampled() -> None:
    decoder = pointing.decoder()
    projected = decoder.project(*annotations(1))
    words = [w for w in range(len(pointing.VOCABULARY)) if w not in (PAD, START, UNKNOWN)]
    tokens = torch.full((len(words), 1), START)
    found = sampled_logprob(decoder(tokens, projected), torch.tensor(words)[:, None])
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_compiled_steps_are_not_taken() -> None:
    assert TorchStep.from_decoder(pointing.decoder()) is None
    for row in (dispatch.TORCH_STEP, dispatch.ONNX_STEP):
        case = dispatch.Case(items=10**6, pointer=True)
        assert row.choose(case) != dispatch.CPP
        assert "points" in row.implementations[0].obstacle(case)


@torch.no_grad()
def test_a_word_of_the_bank_is_read_by_its_concept() -> None:
    decoder = pointing.decoder()
    pointer = decoder.pointer
    assert pointer is not None
    plain = pointing.VOCABULARY.words.index("water")
    token = torch.tensor([DOG, DOGS, HYDRANT, plain])
    embedded = torch.randn(4, decoder.config.embedding_dim)
    found = pointer.embed(token, embedded)
    dog, hydrant = pointer.read(pointer.vectors[0]), pointer.read(pointer.vectors[1])
    wanted = torch.stack([dog, dog + pointer.plural, hydrant, embedded[3]])
    torch.testing.assert_close(found, wanted)
    # What the vocabulary's embedding holds for such a word is never read, step by step or at once.
    projected = decoder.project(*annotations())
    tokens = token.expand(3, 4).contiguous()
    state = decoder.init_state(projected)
    before = decoder(tokens, projected).logits, decoder.step(tokens[:, 0], state, projected).logits
    decoder.embedding.weight[[DOG, DOGS, HYDRANT]] = 7.0
    after = decoder(tokens, projected).logits, decoder.step(tokens[:, 0], state, projected).logits
    torch.testing.assert_close(after, before)


@torch.no_grad()
def test_items_and_cells_are_compared_by_their_own_features() -> None:
    decoder = pointing.decoder(concept_split=2)
    pointer = decoder.pointer
    assert pointer is not None
    vectors, mask = annotations()
    cells, whole = pointer.likeness(vectors, mask)
    other = vectors.clone()
    other[..., :2] += 1
    assert torch.equal(pointer.likeness(other, mask)[0], cells)
    assert not torch.allclose(pointer.likeness(other, mask)[1], whole)
    other = vectors.clone()
    other[..., 2:] += torch.randn(FEATURES - 2)
    assert torch.equal(pointer.likeness(other, mask)[1], whole)
    assert not torch.allclose(pointer.likeness(other, mask)[0], cells)


@torch.no_grad()
def test_the_cell_of_a_named_word_is_the_one_that_named_it() -> None:
    decoder = pointing.decoder()
    vectors, mask = annotations(items=8)
    naming = decoder.project(vectors, mask).naming
    assert naming is not None
    concept_of = {i: c for c, pair in enumerate(pointing.CONCEPTS) for i in
                  pointing.VOCABULARY.encode(list(pair))}  # fmt: skip
    elsewhere = 0
    for item, (best, *_) in enumerate(search(decoder, (vectors, mask), beam=2)):
        assert best.cell is not None
        for token, alpha, cell in zip(best.tokens, best.alpha, best.cell, strict=True):
            if token not in concept_of:
                assert cell == -1
                continue
            assert cell == (alpha * naming[item, :, concept_of[token]].numpy()).argmax()
            elsewhere += int(cell != alpha.argmax())
    assert elsewhere > 0  # than where it looked most
