"""A model is its parts: put together from a checkpoint, and described for one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regard.checkpoint.folder import SPECIAL_IDS, Checkpoint, load_weights
from regard.config import Recipe
from regard.config.io import from_dict, to_dict
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder, build_encoder
from regard.reliability.confidence import Confidence, stored_confidence
from regard.reliability.out_of_distribution import Familiarity, stored_familiarity
from regard.text.vocabulary import Vocabulary
from regard.version import __version__


@dataclass(frozen=True)
class Model:
    """The parts of a captioner.

    Attributes:
        encoder: pixels to annotations.
        decoder: annotations to words.
        vocabulary: ids to words.
        recipe: what they were made by.
        name: printed with every caption.
        familiarity: what its training items were like, where that was learned.
        confidence: how sure to be of its words, where it was calibrated.
    """

    encoder: Encoder
    decoder: AttentionDecoder
    vocabulary: Vocabulary
    recipe: Recipe
    name: str
    familiarity: Familiarity | None = None
    confidence: Confidence | None = None

    def weights(self, *, half: bool) -> dict[str, Tensor]:
        """Return all weights by the names that they bear in a checkpoint.

        Args:
            half: as float16.
        """
        return {
            key: value.half() if half and value.is_floating_point() else value
            for key, value in _modules(self.encoder, self.decoder).state_dict().items()
        }

    def describe(self, *, resumable: bool) -> dict[str, Any]:
        """Return what `config.json` says.

        Args:
            resumable: keep the paths of the data, so that the run can go on; else only their
                names are kept, not the place where they lay on one machine.
        """
        described = {
            "regard_version": __version__,
            "name": self.name,
            "medium": self.encoder.medium,
            "recipe": to_dict(self.recipe if resumable else _without_places(self.recipe)),
            "preprocessing": to_dict(self.encoder.spec),
            "encoder": {
                "name": self.encoder.name,
                "digest": self.encoder.digest(),
                "annotation_dim": self.encoder.annotation_dim,
                "grid_shape": list(self.encoder.grid_shape),
            },
            "special_ids": SPECIAL_IDS,
        }
        if self.familiarity is not None:  # never required
            described["familiarity"] = self.familiarity.to_json()
        if self.confidence is not None:
            described["confidence"] = self.confidence.to_json()
        return described


def assemble(checkpoint: Checkpoint) -> Model:
    """Build the parts that a checkpoint describes, with its weights, in evaluation mode.

    Raises:
        CheckpointError: the parts do not fit each other.
        MissingExtra: the encoder needs a package that is not installed.
    """
    config = checkpoint.config
    try:
        # Fresh weights are drawn and overwritten; the caller's random numbers go on unmoved.
        with torch.random.fork_rng(devices=[]):
            recipe = from_dict(Recipe, config["recipe"])
            encoder = build_encoder(recipe.encoder, pretrained=False)
            decoder = AttentionDecoder(
                recipe.decoder,
                annotation_dim=encoder.annotation_dim,
                vocabulary_size=len(checkpoint.vocabulary),
            )
    except (ConfigError, UnknownName) as error:
        raise CheckpointError(f"{checkpoint.path / 'config.json'}: {error}") from error
    _check_encoder(checkpoint, encoder)
    load_weights(_modules(encoder, decoder), checkpoint.weights, str(checkpoint.path))
    if encoder.digest() != config["encoder"]["digest"]:
        raise CheckpointError(
            f"{checkpoint.path}: the encoder's weights are not those that config.json names; "
            "model.safetensors is damaged or of another model."
        )
    return Model(
        encoder.eval(),
        decoder.eval(),
        checkpoint.vocabulary,
        recipe,
        config["name"],
        stored_familiarity(config),
        stored_confidence(config),
    )


def _modules(encoder: Encoder, decoder: AttentionDecoder) -> nn.ModuleDict:
    """Return both under the names that their weights bear in a checkpoint."""
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})


def _without_places(recipe: Recipe) -> Recipe:
    names = {
        key: Path(getattr(recipe.data, key)).name for key in ("annotations", "images", "store")
    }
    encoder = replace(recipe.encoder, weights=_name_of_model(recipe.encoder.weights))
    training = replace(recipe.training, init_from=_name_of_model(recipe.training.init_from))
    objective = replace(
        recipe.objective,
        teachers=tuple(_name_of_model(place) for place in recipe.objective.teachers),
        teacher_stores=tuple(Path(place).name for place in recipe.objective.teacher_stores),
    )
    data = replace(recipe.data, **names)
    return replace(recipe, encoder=encoder, data=data, objective=objective, training=training)


def _name_of_model(place: str) -> str:
    """Return a model's name without the folder that it lay in: of a run's best, the run's too."""
    path = Path(place)
    if not path.is_absolute():
        return place
    return "/".join(path.parts[-2:]) if path.name in ("best", "last") else path.name


def _check_encoder(checkpoint: Checkpoint, encoder: Encoder) -> None:
    """Refuse a config whose parts contradict each other."""
    config = checkpoint.config
    for key, stored, own in (
        ("annotation_dim", config["encoder"]["annotation_dim"], encoder.annotation_dim),
        ("grid_shape", config["encoder"]["grid_shape"], list(encoder.grid_shape)),
        ("preprocessing", config["preprocessing"], to_dict(encoder.spec)),
    ):
        if stored != own:
            raise CheckpointError(
                f"{checkpoint.path / 'config.json'}: {key} is {stored}, and the encoder "
                f"{encoder.name} has {own}. The config was changed by hand, or the encoder is of "
                "another version."
            )
