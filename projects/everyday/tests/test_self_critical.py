"""Self-critical steps: the reward by hand, and a policy that follows it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.everyday.bank import ConceptHead
from projects.everyday.mix import Captioned, Mix, Sizes, read_texts, vocabulary_of
from projects.everyday.naming import NamedPictures
from projects.everyday.self_critical import Reward, refine
from projects.everyday.tests.coloured_toys import WORDS
from projects.everyday.train import build_decoder, decoder_config
from regard.metrics.cider import CiderD
from regard.text.vocabulary import END, SPECIALS


def test_concepts_that_no_reference_names_cost() -> None:
    references = [["a", "ball", "in", "the", "picture"], ["a", "box", "in", "the", "snow"]]
    scorer = CiderD.from_captions([tuple(map(tuple, references)), (("a", "dog"), ("a", "cat"))])
    reward = Reward(scorer, WORDS, penalty=0.4)
    ended = [(*text, SPECIALS[END]) for text in references]
    supported, alien = (["a", "ball", "in", "the", "picture"], ["a", "fire", "hydrant"])
    alien = ["a", "fire hydrant"]
    for caption, unsupported in ((supported, 0), (["a", "ball", "and", "a", "box"], 0), (alien, 1)):
        whole = [*caption, SPECIALS[END]]
        expected = scorer.score(whole, ended) - 0.4 * unsupported
        assert reward(whole, references) == pytest.approx(expected)
    assert reward([*supported, SPECIALS[END]], references) > reward(supported, references)


class Liking(Reward):
    """Rewards one word."""

    def __call__(self, caption, references) -> float:  # type: ignore[no-untyped-def]
        assert len(references) == 5
        return float("ball" in caption)


class Constant(Reward):
    """Rewards all captions alike, so that samples have no gradient."""

    def __call__(self, caption, references) -> float:  # type: ignore[no-untyped-def]
        return 1.0


@pytest.fixture
def parts(data: Path, head: ConceptHead, pictures: list[Captioned], named: NamedPictures):
    """A fresh decoder, the mix, the vocabulary, and a scorer."""
    texts = read_texts(data / "coco_text" / "captions.txt", WORDS)
    vocabulary = vocabulary_of(pictures, texts, WORDS)
    bank = head.bank()
    sizes = {"embedding_dim": 24, "hidden_dim": 32, "attention_dim": 16, "feature_dim": 20}
    config = replace(decoder_config(*bank.vectors.shape), **sizes, dropout=0.1)
    decoder = build_decoder(bank, WORDS, vocabulary, config=config)
    mix = Mix(pictures, texts, named, WORDS, sizes=Sizes(6, 4, 1, 1))
    return decoder, mix, vocabulary, Reward.of(pictures, WORDS).scorer


def test_samples_come_to_hold_what_is_rewarded(parts) -> None:
    decoder, mix, vocabulary, scorer = parts
    kept = decoder.pointer.vectors.clone()
    reward = Liking(scorer, WORDS)
    run = refine(decoder, mix, vocabulary, reward, steps=20, learning_rate=2e-2, bf16=False, seed=0)
    rewards, others = zip(*run, strict=True)
    assert rewards[0] < 0.7
    assert np.mean(rewards[-8:]) > 0.9
    assert np.isfinite(others).all()
    assert torch.equal(decoder.pointer.vectors, kept)
    assert not decoder.training


def test_the_other_batch_is_learned_where_no_sample_is_better(parts) -> None:
    decoder, mix, vocabulary, scorer = parts
    reward = Constant(scorer, WORDS)
    run = refine(decoder, mix, vocabulary, reward, steps=12, learning_rate=1e-2, bf16=False)
    losses = [other for _, other in run]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_what_is_kept_lies_between_the_first_and_the_last_weights(
    parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, mix, vocabulary, scorer = parts
    first = copy.deepcopy(decoder.state_dict())
    found: dict[float, dict[str, torch.Tensor]] = {}
    for share in (1.0, 0.25):
        decoder.load_state_dict(first)
        monkeypatch.setattr("projects.everyday.self_critical._SHARE", share)
        run = refine(decoder, mix, vocabulary, Constant(scorer, WORDS), steps=1, bf16=False)
        list(run)
        found[share] = copy.deepcopy(decoder.state_dict())
    # The first step of Adam moves a weight by the rate, whatever its gradient.
    moved = {
        share: max(float((state[name] - first[name]).abs().max()) for name in first)
        for share, state in found.items()
    }
    assert moved[1.0] > 0
    assert moved[0.25] == pytest.approx(moved[1.0] / 4, rel=0.05)
