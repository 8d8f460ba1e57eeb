"""Distillation: a run also learns from the word probabilities of trained models (teachers).

A picture has a few captions; a teacher's probabilities show which other words fit each position
(Hinton et al. 2015). The probabilities of several teachers are averaged, so that a large
model, or an ensemble, is distilled into a small one. A teacher sees the same view of a picture as
the student, through its own encoder, whose annotations have their own store.
"""

from collections.abc import Sequence
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
from regard.training.batches import Splits
from regard.training.devices import Devices
from regard.training.inputs import Pictures, Report, views_of
from regard.training.objectives.base import Batch
from regard.types import MEDIA


@dataclass(frozen=True)
class Teacher:
    """A trained model that stays fixed.

    Attributes:
        decoder: in evaluation mode.
        pictures: encoded by its own encoder.
    """

    decoder: AttentionDecoder
    pictures: Pictures

    def probs(self, batch: Batch, items: list[CaptionedItem], views: list[str]) -> Tensor:
        """Return its word probabilities at every real word, (R, V) float32.

        A teacher with hard attention uses the expected context.

        Args:
            batch: the captions.
            items: the batch's pictures.
            views: views of each picture.
        """
        with torch.inference_mode():
            stored, mask = self.pictures.read(items, views)
            projected = self.decoder.project(self.pictures.vectors(stored, mask), mask)
            unrolled = self.decoder(batch.tokens, projected, steps=batch.rows)
            return torch.softmax(unrolled.row_logits().float(), -1)


def mean_probs(
    teachers: Sequence[Teacher], batch: Batch, items: list[CaptionedItem], views: list[str]
) -> Tensor:
    """Return the mean probabilities of the teachers, (R, V); see `Teacher.probs`."""
    return torch.stack([t.probs(batch, items, views) for t in teachers]).mean(0)


def open_teachers(
    recipe: Recipe, splits: Splits, words: Vocabulary, out: Path, report: Report, devices: Devices
) -> list[Teacher]:
    """Load the teachers that `objective.teachers` names and encode their pictures.

    Args:
        recipe: objective and data are read.
        splits: all of their pictures are encoded.
        words: the run's.
        out: the run's folder.
        report: called with (views done, total views).
        devices: the processes that train together.

    Raises:
        CheckpointError: a model does not exist or is damaged.
        ConfigError: a teacher's words or medium differ from the run's.
    """
    config = recipe.objective
    stores = config.teacher_stores or [
        str(out / f"teacher{number + 1}") for number in range(len(config.teachers))
    ]
    teachers: list[Teacher] = []
    views = views_of(recipe.data)[1:]
    for name, folder in zip(config.teachers, stores, strict=True):
        model = build_components(load_checkpoint(find_model(name)), str(devices.device))
        encoder = model.encoder
        _check(name, encoder.medium, model.vocabulary, recipe, words)
        if encoder.frozen_part() is None:  # it was trained as a whole
            encoder.requires_grad_(False)
        store = Path(folder)
        pictures = Pictures(encoder, splits, store, views=views, report=report, devices=devices)
        teachers.append(Teacher(model.decoder, pictures))
    return teachers


def absolute_teachers(config: ObjectiveConfig) -> ObjectiveConfig:
    """Make the paths of teachers absolute, so that a run can be resumed from any folder."""
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
            f"the teacher {name} has {len(words)} words, which differ from the run's {len(own)}. "
            "Train both on the same captions with the same data.min_count and data.max_words."
        )
