"""What a run is made of, and how it is put together before its first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from regard.checkpoint import load_checkpoint
from regard.config import Recipe, from_dict
from regard.decoder import AttentionDecoder
from regard.encoders import build_encoder
from regard.errors import CheckpointError
from regard.media import NOUNS
from regard.training.batches import Chunk, make_chunks
from regard.training.devices import Devices
from regard.training.familiar import check_enough
from regard.training.logs import Reporter
from regard.training.objectives import build_objective
from regard.training.pictures import Pictures
from regard.training.prepare import (
    Splits,
    absolute_paths,
    cut_captions,
    encode_captions,
    load_splits,
)
from regard.training.state import TrainState
from regard.training.views import views_of
from regard.vocabulary import Vocabulary, build_vocabulary


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
    saved = None
    if resume:
        saved = load_checkpoint(out / "last", training=True)
        if saved.training_state is None:
            raise CheckpointError(f"{out / 'last'} holds no training.pt, so it cannot be resumed.")
        recipe = from_dict(Recipe, saved.config["recipe"])
    else:
        encoder_config = recipe.encoder
        if encoder_config.weights:
            weights = str(Path(encoder_config.weights).absolute())
            encoder_config = replace(encoder_config, weights=weights)
        recipe = replace(recipe, data=absolute_paths(recipe.data), encoder=encoder_config)
    out.mkdir(parents=True, exist_ok=True)
    splits = load_splits(recipe.data, recipe.training.seed, recipe.evaluation.limit, devices)
    if recipe.data.familiarity:
        check_enough(splits)
    encoder = build_encoder(recipe.encoder, pretrained=True)
    recipe = replace(recipe, decoder=replace(recipe.decoder, grid_shape=encoder.grid_shape))
    start = load_checkpoint(Path(recipe.training.init_from)) if recipe.training.init_from else None
    vocabulary = (
        saved.vocabulary if saved else start.vocabulary if start else _words(recipe, splits)
    )
    decoder = _fresh_decoder(recipe, encoder.annotation_dim, len(vocabulary))
    if start is not None and saved is None:
        _start_from(decoder, encoder, start.weights)
    reporter.message(
        f"{len(splits.train.items)} training and {len(splits.val.items)} val "
        f"{NOUNS[encoder.medium]}s, "
        f"{len(vocabulary)} words, {sum(p.numel() for p in decoder.parameters()) / 1e6:.1f} "
        "million decoder weights"
    )
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
    state = TrainState.begin(recipe, decoder, encoder, objective, devices.world)
    if saved is not None and saved.training_state is not None:
        state.load(saved.training_state)
    if devices.world > 1:
        state.load(devices.broadcast(state.to_dict()))  # whatever differs between machines
    chunks = make_chunks(captions, recipe.training.captions_per_image)
    return Run(recipe, out, splits, vocabulary, pictures, chunks, state, reporter, devices)


def _words(recipe: Recipe, splits: Splits) -> Vocabulary:
    return build_vocabulary(
        (caption for item in splits.train.items for caption in item.captions),
        tokens=recipe.data.tokens,
        min_count=recipe.data.min_count,
        max_words=recipe.data.max_words,
    )


def _fresh_decoder(recipe: Recipe, annotation_dim: int, words: int) -> AttentionDecoder:
    """Build a decoder from the recipe's seed, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return AttentionDecoder(
            recipe.decoder, annotation_dim=annotation_dim, vocabulary_size=words
        )


def _start_from(
    decoder: AttentionDecoder, encoder: torch.nn.Module, weights: dict[str, torch.Tensor]
) -> None:
    for prefix, module in (("decoder.", decoder), ("encoder.", encoder)):
        part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint in training.init_from does not fit the recipe's {prefix[:-1]}: "
                f"{error}"
            ) from error
