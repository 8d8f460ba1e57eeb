"""What a run is made of, and how it is put together before its first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from regard.checkpoint.folder import Checkpoint, load_checkpoint
from regard.config import Recipe, TrainingConfig
from regard.config.io import from_dict
from regard.errors import CheckpointError
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder, build_encoder
from regard.text.vocabulary import Vocabulary, build_vocabulary, extend_vocabulary
from regard.training.batches import Chunk, check_batching, make_chunks
from regard.training.devices import Devices, computes_in_bf16
from regard.training.distillation import Teacher, absolute_teachers, open_teachers
from regard.training.fine_tune import begin_from, open_start, set_priors, words_added
from regard.training.inputs import Pictures, check_views, views_of
from regard.training.item_statistics import check_enough
from regard.training.logs import Reporter
from regard.training.objectives import build_objective
from regard.training.prepare import (
    Splits,
    absolute_paths,
    check_unchanged,
    cut_captions,
    encode_captions,
    load_splits,
)
from regard.training.state import TrainState
from regard.types import MEDIA


@dataclass(frozen=True)
class Run:
    """What a run is made of; only its state changes."""

    recipe: Recipe
    folder: Path
    splits: Splits
    vocabulary: Vocabulary
    pictures: Pictures
    chunks: list[Chunk]
    state: TrainState
    teachers: list[Teacher]
    reporter: Reporter
    devices: Devices

    @property
    def leads(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.devices.rank == 0


def prepare_run(
    recipe: Recipe, out: Path, resume: bool, reporter: Reporter, devices: Devices
) -> Run:
    """Load captions, vocabulary, encoder, annotations and state; see `regard.training.train`."""
    saved = _saved(out) if resume else None
    if saved is not None:
        recipe = from_dict(Recipe, saved.config["recipe"])
    else:
        check_batching(recipe.training)
        recipe = _of_this_machine(recipe, reporter, devices)
    splits = load_splits(recipe.data, recipe.training.seed, recipe.evaluation.limit, devices)
    if saved is not None and saved.training_state is not None:
        check_unchanged(splits, saved.training_state.get("data"))
    if recipe.data.familiarity:
        check_enough(splits)
    check_views(recipe)
    begins = saved is None and bool(recipe.training.init_from)
    start = open_start(recipe, splits.train) if begins else saved
    encoder = _encoder(recipe, start)
    recipe = replace(recipe, decoder=replace(recipe.decoder, grid_shape=encoder.grid_shape))
    vocabulary = saved.vocabulary if saved else _words(recipe, splits, start)
    decoder = _fresh_decoder(recipe, encoder.annotation_dim, len(vocabulary))
    if start is not None:
        begin_from(start, decoder, encoder, vocabulary, recipe.training.seed)
    if start is not None and begins:
        words = words_added(start.vocabulary, vocabulary)
        reporter.message(f"begins from {recipe.training.init_from}: {words}")
    reporter.message(
        f"{len(splits.train.items)} training and {len(splits.val.items)} val "
        f"{MEDIA[encoder.medium].noun}s, "
        f"{len(vocabulary)} words, {sum(p.numel() for p in decoder.parameters()) / 1e6:.1f} "
        "million decoder weights"
    )
    out.mkdir(parents=True, exist_ok=True)  # where a wish was wrong, no empty folder stays behind
    pictures = Pictures(
        encoder,
        splits,
        Path(recipe.data.store or out / "annotations"),
        views=views_of(recipe.data)[1:],
        report=reporter.encoded,
        devices=devices,
    )
    whole = encode_captions(splits.train, vocabulary)
    captions, remark = cut_captions(whole, recipe.data.max_length)
    if remark:
        reporter.message(remark)
    objective = build_objective(recipe, splits.train, vocabulary)
    if start is not None and len(vocabulary) > len(start.vocabulary):
        set_priors(decoder, len(start.vocabulary), captions, splits.train, pictures)
    state = TrainState.begin(recipe, decoder, encoder, objective, devices.world)
    if saved is not None and saved.training_state is not None:
        state.load(saved.training_state)
    if devices.world > 1:
        state.load(devices.broadcast(state.to_dict()))  # whatever differs between machines
    chunks = make_chunks(captions, recipe.training.captions_per_image)
    teachers = open_teachers(recipe, splits, vocabulary, out, reporter.encoded, devices)
    return Run(
        recipe, out, splits, vocabulary, pictures, chunks, state, teachers, reporter, devices
    )


def _saved(out: Path) -> Checkpoint:
    """Return where a run stopped."""
    saved = load_checkpoint(out / "last", training=True)
    if saved.training_state is None:
        raise CheckpointError(f"{out / 'last'} holds no training.pt, so it cannot be resumed.")
    return saved


def _of_this_machine(recipe: Recipe, reporter: Reporter, devices: Devices) -> Recipe:
    """Name files by their whole paths, and choose the precision where it is "auto"."""
    encoder = recipe.encoder
    if encoder.weights:
        encoder = replace(encoder, weights=str(Path(encoder.weights).absolute()))
    return replace(
        recipe,
        data=absolute_paths(recipe.data),
        encoder=encoder,
        objective=absolute_teachers(recipe.objective),
        training=_in_its_precision(recipe.training, reporter, devices),
    )


def _in_its_precision(
    training: TrainingConfig, reporter: Reporter, devices: Devices
) -> TrainingConfig:
    """Choose the precision where it is "auto"; a run that is resumed elsewhere keeps it."""
    native = devices.broadcast(computes_in_bf16())
    if training.precision == "bf16" and not native:
        reporter.message(
            "training.precision is bf16, which this processor only imitates: a step takes many "
            "times as long as in fp32"
        )
    if training.precision != "auto":
        return training
    return replace(training, precision="bf16" if native else "fp32")


def _encoder(recipe: Recipe, start: Checkpoint | None) -> Encoder:
    """Build the encoder; where there is a checkpoint its weights are put in later."""
    if start is None:
        return build_encoder(recipe.encoder, pretrained=True)
    with torch.random.fork_rng(devices=[]):
        return build_encoder(recipe.encoder, pretrained=False)


def _words(recipe: Recipe, splits: Splits, start: Checkpoint | None) -> Vocabulary:
    """Return the words of the training captions, after those of the model it begins from."""
    data = recipe.data
    captions = (caption for item in splits.train.items for caption in item.captions)
    limits = {"min_count": data.min_count, "max_words": data.max_words}
    if start is not None:
        return extend_vocabulary(start.vocabulary, captions, **limits)
    return build_vocabulary(captions, tokens=data.tokens, **limits)


def _fresh_decoder(recipe: Recipe, annotation_dim: int, words: int) -> AttentionDecoder:
    """Build a decoder from the recipe's seed, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return AttentionDecoder(
            recipe.decoder, annotation_dim=annotation_dim, vocabulary_size=words
        )
