"""Toy captioners of every kind of attention."""

from __future__ import annotations

from dataclasses import replace

from regard.captioner import Captioner
from regard.config import ObjectiveConfig
from tests.helpers import toys


def captioner(**decoder_settings: object) -> Captioner:
    """A captioner of random weights; a hard one gets the objective that its recipe needs."""
    if decoder_settings.get("attention") != "hard":
        return toys.captioner(**decoder_settings)
    soft = toys.captioner()
    hard = toys.decoder(
        annotation_dim=soft.encoder.annotation_dim, grid_shape=(2, 2), **decoder_settings
    )
    objective = ObjectiveConfig(kind="hard_attention")
    recipe = replace(soft.config, decoder=hard.config, objective=objective)
    return Captioner(soft.encoder, hard, soft.vocabulary, recipe, name="toy")
