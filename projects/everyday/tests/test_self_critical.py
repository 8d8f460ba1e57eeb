"""Self-critical steps: the reward by hand, and a policy that follows it."""

from __future__ import annotations

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


def test_samples_come_to_hold_what_is_rewarded(
    data: Path, head: ConceptHead, pictures: list[Captioned], named: NamedPictures
) -> None:
    texts = read_texts(data / "coco_text" / "captions.txt", WORDS)
    vocabulary = vocabulary_of(pictures, texts, WORDS)
    bank = head.bank()
    sizes = {"embedding_dim": 24, "hidden_dim": 32, "attention_dim": 16, "feature_dim": 20}
    config = replace(decoder_config(*bank.vectors.shape), **sizes, dropout=0.1)
    decoder = build_decoder(bank, WORDS, vocabulary, config=config)
    kept = decoder.pointer.vectors.clone()
    mix = Mix(pictures, texts, named, WORDS, sizes=Sizes(6, 4, 1, 1))
    reward = Liking(Reward.of(pictures, WORDS).scorer, WORDS)
    run = refine(decoder, mix, vocabulary, reward, steps=20, learning_rate=2e-2, bf16=False, seed=0)
    rewards, others = zip(*run, strict=True)
    assert rewards[0] < 0.7
    assert np.mean(rewards[-8:]) > 0.9
    assert np.isfinite(others).all()
    assert torch.equal(decoder.pointer.vectors, kept)
    assert not decoder.training
