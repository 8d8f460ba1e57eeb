"""A toy captioner that points, and what its bank holds."""

from __future__ import annotations

import torch

from regard.captioner import Captioner
from regard.config import EncoderConfig, ObjectiveConfig, Recipe
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import build_encoder
from regard.text.vocabulary import SPECIALS, Vocabulary
from tests.helpers import toys

WORDS = (*toys.WORDS, "dogs", "fire hydrant", "fire hydrants", "bear", "water")
WORDS_OF_ALL = SPECIALS + WORDS
VOCABULARY = Vocabulary(WORDS_OF_ALL)
CONCEPTS = (("dog", "dogs"), ("fire hydrant", "fire hydrants"), ("bear", "bear"))
SIZES = {"concepts": len(CONCEPTS), "concept_dim": 5}


def decoder(*, eager: bool = True, **settings: object) -> AttentionDecoder:
    """A decoder that points at `CONCEPTS`.

    Args:
        eager: whether the gate is open on average; else as it was drawn.
        **settings: of `toys.decoder`.
    """
    made = toys.decoder(words=len(VOCABULARY), **(SIZES | settings))  # type: ignore[arg-type]
    pointer = made.pointer
    assert pointer is not None
    draw = torch.Generator().manual_seed(5)
    forms = torch.tensor([VOCABULARY.encode(list(pair)) for pair in CONCEPTS])
    pointer.set_bank(forms, torch.randn(3, 5, generator=draw), torch.tensor([0.5, 1.0, 0.0]))
    with torch.no_grad():
        pointer.plural.normal_(generator=draw)
        if eager:
            pointer.switch.bias.copy_(torch.tensor([2.0, 0.0]))
    return made


def captioner(**settings: object) -> Captioner:
    """A captioner of 32 pixels and 4×4 cells."""
    config = EncoderConfig("small_cnn", 32, "stride8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = build_encoder(config)
    made = decoder(annotation_dim=encoder.annotation_dim, grid_shape=(4, 4), **settings)
    kind = "hard_attention" if settings.get("attention") == "hard" else "cross_entropy"
    recipe = Recipe("toy", config, made.config, objective=ObjectiveConfig(kind=kind))
    return Captioner(encoder, made, VOCABULARY, recipe, name="toy")
