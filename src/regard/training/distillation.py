"""Teachers: trained models whose word probabilities a run learns besides the captions.

Of a picture people wrote five captions; a teacher says of every word what else might have stood
there (Hinton et al. 2015). Several teachers are averaged, so that a large model, or many, are put
into one that is small. A teacher sees the same view of a picture that the learner sees, through its
own encoder, whose annotations have a store of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from regard.checkpoint.components import build_components
from regard.checkpoint.folder import load_checkpoint
from regard.config import ObjectiveConfig, Recipe
from regard.data.dataset import CaptionedItem
from regard.errors import ConfigError
from regard.model.decoder import AttentionDecoder
from regard.pretrained import find_model
from regard.text.vocabulary import Vocabulary
from regard.training.devices import Devices
from regard.training.inputs import Pictures, views_of
from regard.training.objectives.base import Batch
from regard.training.prepare import Splits
from regard.types import MEDIA


@dataclass(frozen=True)
class Teacher:
    """A model that does not learn.

    Attributes:
        decoder: in evaluation mode.
        pictures: as its own encoder sees them.
    """

    decoder: AttentionDecoder
    pictures: Pictures

    def taught(self, batch: Batch, items: list[CaptionedItem], views: list[str]) -> Tensor:
        """Return its probabilities of every word where a real one stands, (R, V) float32.

        A teacher of hard attention looks at every cell as far as it would draw it.

        Args:
            batch: whose captions it reads.
            items: the batch's pictures.
            views: of each picture.
        """
        with torch.inference_mode():
            stored, mask = self.pictures.read(items, views)
            projected = self.decoder.project(self.pictures.vectors(stored, mask), mask)
            read = self.decoder(batch.tokens, projected, steps=batch.steps)
            return torch.softmax(read.output(read.features).float(), -1)


def mean_taught(
    teachers: Sequence[Teacher], batch: Batch, items: list[CaptionedItem], views: list[str]
) -> Tensor:
    """Return the mean of what the teachers say, (R, V); see `Teacher.taught`."""
    return torch.stack([t.taught(batch, items, views) for t in teachers]).mean(0)


def open_teachers(
    recipe: Recipe,
    splits: Splits,
    vocabulary: Vocabulary,
    out: Path,
    report: Callable[[int, int], None],
    devices: Devices,
) -> list[Teacher]:
    """Load the teachers that `objective.teachers` names and encode what they shall see.

    Args:
        recipe: objective and data are read.
        splits: whose pictures are wanted.
        vocabulary: the run's.
        out: the run's folder.
        report: is told (views done, views wanted).
        devices: that train together.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: it has other words, or is of another medium.
    """
    config = recipe.objective
    stores = config.teacher_stores or [
        str(out / f"teacher{number + 1}") for number in range(len(config.teachers))
    ]
    teachers = []
    for name, store in zip(config.teachers, stores, strict=True):
        model = build_components(load_checkpoint(find_model(name)))
        _check(name, model.encoder.medium, model.vocabulary, recipe, vocabulary)
        if model.encoder.frozen_part() is None:  # it was trained whole, and is no longer
            model.encoder.requires_grad_(False)
        pictures = Pictures(
            model.encoder,
            splits,
            Path(store),
            views=views_of(recipe.data)[1:],
            report=report,
            devices=devices,
        )
        teachers.append(Teacher(model.decoder, pictures))
    return teachers


def absolute_teachers(config: ObjectiveConfig) -> ObjectiveConfig:
    """Return the same folders as absolute paths, so that a run can go on from any folder."""
    return replace(
        config,
        teachers=tuple(str(Path(t).absolute()) if Path(t).is_dir() else t for t in config.teachers),
        teacher_stores=tuple(str(Path(store).absolute()) for store in config.teacher_stores),
    )


def _check(name: str, medium: str, words: Vocabulary, recipe: Recipe, own: Vocabulary) -> None:
    if medium != recipe.encoder.medium:
        raise ConfigError(
            f"the teacher {name} captions {MEDIA[medium].noun}s, and the run "
            f"{MEDIA[recipe.encoder.medium].noun}s. Name a teacher of the same medium."
        )
    if words.tokens != own.tokens or words.words != own.words:
        raise ConfigError(
            f"the teacher {name} knows {len(words)} words, which are not the run's {len(own)}. "
            "Train both on the same captions with the same data.min_count and data.max_words."
        )
