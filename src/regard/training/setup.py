"""Setup of a training run: recipe, captions, networks and state."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from regard.checkpoint.build import check_sizes
from regard.checkpoint.components import recipe_of
from regard.checkpoint.folder import Checkpoint, load_checkpoint
from regard.config import DataConfig, Recipe, TrainingConfig
from regard.config.io import from_dict
from regard.data.dataset import SPLITS, UNUSED, CaptionDataset
from regard.data.shards import load_captions
from regard.errors import CheckpointError, ConfigError, DatasetError
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder, build_encoder
from regard.text.vocabulary import Vocabulary, build_vocabulary, extend_vocabulary
from regard.text.words import UNSPACED
from regard.training.batches import Chunk, Splits, check_batching, encode_captions, make_chunks
from regard.training.devices import Devices, supports_bf16
from regard.training.distillation import Teacher, absolute_teachers, open_teachers
from regard.training.fine_tune import describe_words, load_start, open_start, set_new_biases
from regard.training.inputs import Pictures, check_views, views_of
from regard.training.logs import Reporter
from regard.training.objectives import build_objective
from regard.training.state import TrainState
from regard.types import MEDIA
from regard.util.shown_text import holds_secret

_FEWEST_ITEMS = 10  # training items that statistics can be learned from


@dataclass(frozen=True)
class TrainingRun:
    """The parts of a run. Only its state changes."""

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
    fit_memory: bool = False
    """Whether a batch that does not fit into memory is split into more passes."""

    @property
    def leads(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.devices.rank == 0


def prepare_run(
    recipe: Recipe,
    out: Path,
    resume: bool,
    reporter: Reporter,
    devices: Devices,
    precision: str = "",
) -> TrainingRun:
    """Load captions, networks, annotations and state; see `regard.training.train`."""
    saved, saved_state = _load_saved(out) if resume else (None, {})
    if saved is not None:
        recipe = from_dict(Recipe, saved.config["recipe"])
    if precision:
        recipe = replace(recipe, training=replace(recipe.training, precision=precision))
    if saved is None:
        check_batching(recipe.training)
        recipe = _resolve(recipe)
    recipe = replace(recipe, training=_choose_precision(recipe.training, reporter, devices))
    splits = load_splits(recipe.data, recipe.training.seed, recipe.evaluation.limit, devices)
    check_unchanged(splits, saved_state.get("data"))
    if recipe.data.familiarity:
        _check_item_count(splits)
    check_views(recipe)
    start = saved
    if saved is None:
        _check_bank(recipe)
        start = open_start(recipe, splits.train) if recipe.training.init_from else None
    encoder = _build_encoder(recipe, start)
    recipe = replace(recipe, decoder=replace(recipe.decoder, grid_shape=encoder.grid_shape))
    vocabulary = saved.vocabulary if saved else _build_words(recipe, splits, start)
    decoder = _build_decoder(recipe, encoder.annotation_dim, len(vocabulary))
    if start is not None:
        load_start(start, decoder, encoder, vocabulary, recipe.training.seed)
    encoder, decoder = encoder.to(devices.device), decoder.to(devices.device)
    reporter.message(devices.placement.describe(recipe.training.precision))
    _report_contents(reporter, recipe, splits, vocabulary, decoder, None if saved else start)
    out.mkdir(parents=True, exist_ok=True)  # only now: a wrong setting leaves no empty folder
    pictures = Pictures(
        encoder, splits, Path(recipe.data.store or out / "annotations"), devices=devices,
        views=views_of(recipe.data)[1:], report=reporter.encoded, message=reporter.message,
    )  # fmt: skip
    captions, cut = cut_captions(encode_captions(splits.train, vocabulary), recipe.data.max_length)
    remarks = (*splits.train.notes, pictures.held_out_twins(splits), cut)
    for remark in filter(None, (*remarks, tokens_note(splits.train, vocabulary))):
        reporter.message(remark)
    objective = build_objective(recipe, splits.train, vocabulary).to(devices.device)
    if start is not None and len(vocabulary) > len(start.vocabulary):
        set_new_biases(decoder, len(start.vocabulary), captions, splits.train, pictures)
    state = TrainState.create(recipe, decoder, encoder, objective, devices.world)
    if saved_state:
        state.load(saved_state)
        _report_device(reporter, saved_state.get("device", "cpu"), devices.device.type)
    if devices.world > 1:
        state.load(devices.broadcast(state.to_dict()))  # machines may differ in a rounding
    chunks = make_chunks(captions, recipe.training.captions_per_image)
    teachers = open_teachers(recipe, splits, vocabulary, out, reporter.encoded, devices)
    if note := pictures.make_resident(recipe.training.resident):
        reporter.message(note)
    return TrainingRun(
        recipe, out, splits, vocabulary, pictures, chunks, state, teachers, reporter, devices
    )


def _check_bank(recipe: Recipe) -> None:
    """Reject a fresh decoder that would point without a bank of concepts."""
    if recipe.decoder.concepts and not recipe.training.init_from:
        raise ConfigError(
            f"decoder.concepts is {recipe.decoder.concepts}, and a fresh decoder has no bank of "
            "concepts to point at. Set decoder.concepts = 0, or start from a model that points: "
            "regard train --init MODEL."
        )


def _report_device(reporter: Reporter, before: str, now: str) -> None:
    if before != now:
        reporter.message(
            f"the run was saved on {before} and continues on {now}: its numbers agree to rounding, "
            "and bits may differ"
        )


def _report_contents(
    reporter: Reporter,
    recipe: Recipe,
    splits: Splits,
    vocabulary: Vocabulary,
    decoder: AttentionDecoder,
    start: Checkpoint | None,
) -> None:
    if start is not None:
        words = describe_words(start.vocabulary, vocabulary)
        reporter.message(f"begins from {recipe.training.init_from}: {words}")
    reporter.message(
        f"{len(splits.train.items)} training and {len(splits.val.items)} val "
        f"{MEDIA[recipe.encoder.medium].noun}s, {len(vocabulary)} words, "
        f"{sum(p.numel() for p in decoder.parameters()) / 1e6:.1f} million decoder weights"
    )


def _load_saved(out: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """Return the last checkpoint of a run and its training state."""
    saved = load_checkpoint(out / "last", training=True)
    if saved.training_state is None:
        raise CheckpointError(f"{out / 'last'} holds no training.pt, so it cannot be resumed.")
    return saved, saved.training_state


# Recipe


def _resolve(recipe: Recipe) -> Recipe:
    """Make paths absolute, so that a run can be resumed from any folder."""
    data, weights = recipe.data, recipe.encoder.weights
    places = {key: _absolute(getattr(data, key)) for key in ("annotations", "images", "store")}
    return replace(
        recipe,
        data=replace(data, **places),
        encoder=replace(recipe.encoder, weights=_absolute(weights)),
        objective=absolute_teachers(recipe.objective),
    )


def _absolute(place: str) -> str:
    if holds_secret(place):
        raise ConfigError(
            f"{place} is given with a password or token, and the run's folder keeps the recipe. "
            "Set it in the environment or in the configuration of fsspec instead, such as "
            "AWS_SECRET_ACCESS_KEY or FSSPEC_HTTP_CLIENT_KWARGS."
        )
    return str(Path(place).absolute()) if place and "://" not in place else place


def _choose_precision(
    training: TrainingConfig, reporter: Reporter, devices: Devices
) -> TrainingConfig:
    """Resolve the precision "auto". A run that is resumed on another machine keeps its own."""
    native = devices.broadcast(supports_bf16(devices.device))
    if training.precision == "bf16" and not native:
        reporter.message(
            f"training.precision is bf16, which this {devices.device.type} only imitates: a step "
            "takes many times as long as in fp32"
        )
    if training.precision != "auto":
        return training
    return replace(training, precision="bf16" if native else "fp32")


# Captions


def load_splits(config: DataConfig, seed: int, val_limit: int, devices: Devices) -> Splits:
    """Load captions and split them, by picture if the data names no val split.

    Args:
        config: the `[data]` section.
        seed: seed of the random split.
        val_limit: number of val pictures to keep, from the first; 0 keeps all.
        devices: rank 0 reads the captions and broadcasts them, since shards without a manifest
            are read from end to end.

    Raises:
        ConfigError: the recipe names no captions.
        DatasetError: the captions cannot be read, a split is empty or has an unknown name, or a
            picture is in two splits.
    """
    if not config.annotations:
        raise ConfigError(
            "the recipe names no captions. Give --data FILE --images DIR, or set "
            "data.annotations and data.images."
        )
    dataset = devices.broadcast(
        load_captions(config.annotations, config.images, present_only=config.present_only)
        if devices.rank == 0
        else CaptionDataset((), "")
    )
    _check_split_names(dataset)
    dataset.check_one_split_each()
    if not any(item.split == "val" for item in dataset.items):
        dataset = dataset.with_split(config.val_fraction, seed)
    train, val = dataset.split("train"), dataset.split("val")
    for name, part in (("train", train), ("val", val)):
        if not part.items:
            raise DatasetError(f"{config.annotations} has no pictures in the {name} split.")
    if config.limit:
        train = replace(train, items=train.items[: config.limit])
    if val_limit:
        val = replace(val, items=val.items[:val_limit])
    return Splits(train, val)


def _check_split_names(dataset: CaptionDataset) -> None:
    """Reject unknown split names: held-out pictures must neither be trained on nor be lost."""
    odd = [item for item in dataset.items if item.split not in (*SPLITS, UNUSED, "")]
    if odd:
        raise DatasetError(
            f"{dataset.source} names the split {odd[0].split!r} for {odd[0].key} "
            f"({len(odd)} such pictures); it must be train, val, test, unused or empty. Rename "
            "it; unused leaves pictures out. `regard data check` lists them all."
        )


def check_unchanged(splits: Splits, digest: str | None) -> None:
    """Check that captions and splits of a resumed run are unchanged.

    Otherwise pictures could move between train and val, and the plan of the epochs would change.

    Args:
        splits: as read now.
        digest: digest of the splits at the start; None if an older version did not save it.

    Raises:
        DatasetError: they differ.
    """
    if digest is not None and digest != splits.digest:
        source = splits.train.source
        raise DatasetError(
            f"{source} no longer has the captions and splits that this run was started with "
            f"({len(splits.train)} training and {len(splits.val)} val pictures now). Restore "
            "them, or start a new run: --init with this run's folder, --data with the new "
            "captions, --out with another folder."
        )


def _check_item_count(splits: Splits) -> None:
    """Check before training that the data set has enough items for their statistics."""
    items = splits.train.items
    if len(items) < _FEWEST_ITEMS:
        raise ConfigError(
            f"data.familiarity is true, and {len(items)} training items are too few to "
            f"estimate their statistics; expected {_FEWEST_ITEMS} or more. Set it to false."
        )


def cut_captions(
    captions: list[list[list[int]]], max_length: int
) -> tuple[list[list[list[int]]], str]:
    """Cut captions at `max_length` words. Also return a note on longer ones; "" if none is.

    The model learns to stop in mid-sentence from captions that are cut, hence the note.
    """
    lengths = [len(ids) for of_picture in captions for ids in of_picture]
    longer = sum(length > max_length for length in lengths)
    if not longer:
        return captions, ""
    return [[ids[:max_length] for ids in of_picture] for of_picture in captions], (
        f"{longer} of {len(lengths)} training captions have more than data.max_length = "
        f"{max_length} tokens and are cut; the longest has {max(lengths)}"
    )


def tokens_note(train: CaptionDataset, vocabulary: Vocabulary) -> str:
    """Return a note on what scores compare if it is not words; else ""."""
    if vocabulary.tokens != "word":
        noun = "characters" if vocabulary.tokens == "character" else "BPE pieces"
        return f"scores compare the model's {noun}, which cannot be compared with scores of words"
    captions = [caption for item in train for caption in item.captions]
    unspaced = sum(UNSPACED.search(caption) is not None for caption in captions)
    if 2 * unspaced < len(captions):
        return ""
    return (
        f"{unspaced} of {len(captions)} training captions are in a language without spaces between "
        "words, and data.tokens is word: whole sentences become words. Set data.tokens to "
        "character or bpe. Scores count characters."
    )


# Networks and words


def _build_encoder(recipe: Recipe, start: Checkpoint | None) -> Encoder:
    """Build the encoder. If there is a checkpoint, its weights are loaded later."""
    if start is None:
        return build_encoder(recipe.encoder, pretrained=True)
    check_sizes(start, recipe_of(start))
    with torch.random.fork_rng(devices=[]):
        return build_encoder(recipe.encoder, pretrained=False)


def _build_words(recipe: Recipe, splits: Splits, start: Checkpoint | None) -> Vocabulary:
    """Return the words of the training captions, after those of the model to start from."""
    data = recipe.data
    captions = (caption for item in splits.train.items for caption in item.captions)
    limits = {"min_count": data.min_count, "max_words": data.max_words}
    if start is not None:
        return extend_vocabulary(start.vocabulary, captions, **limits)
    return build_vocabulary(captions, tokens=data.tokens, **limits)


def _build_decoder(recipe: Recipe, annotation_dim: int, words: int) -> AttentionDecoder:
    """Build a decoder from the recipe's seed. Torch's global generator does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return AttentionDecoder(
            recipe.decoder, annotation_dim=annotation_dim, vocabulary_size=words
        )
