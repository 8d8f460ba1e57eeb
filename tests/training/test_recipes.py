"""Every shipped recipe: it builds, and makes one step."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from regard.config import EncoderConfig, Recipe
from regard.data import CaptionDataset, CaptionedItem
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder, build_encoder
from regard.recipes import find_recipe, shipped_recipes
from regard.text.vocabulary import build_vocabulary
from regard.training.batches import collate, encode_captions, make_chunks
from regard.training.objectives import build_objective
from regard.training.objectives.base import Batch
from regard.training.state import TrainState

ITEMS = (
    CaptionedItem("a.jpg", ("a dog runs", "a brown dog runs"), "train", "a"),
    CaptionedItem("b.jpg", ("two cats sit", "cats on a mat sit"), "train", "b"),
)


@cache
def encoder(config: EncoderConfig) -> Encoder:
    return build_encoder(config, pretrained=False)


def scaled_down(recipe: Recipe) -> Recipe:
    """Three frames of a clip are enough for a step, and 3518 units take a minute to draw."""
    video = replace(recipe.encoder.video, frames=3)
    units = min(recipe.decoder.hidden_dim, 1024)
    return replace(
        recipe,
        encoder=replace(recipe.encoder, video=video),
        decoder=replace(recipe.decoder, hidden_dim=units),
    )


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_shipped_recipe_builds_and_makes_a_step(name: str) -> None:
    recipe = scaled_down(find_recipe(name))
    assert tomllib.loads(shipped_recipes()[name].read_text("utf-8"))["name"] == name
    eyes = encoder(recipe.encoder)
    pixels = torch.rand(2, *eyes.input_shape, generator=torch.Generator().manual_seed(0))
    vocabulary = build_vocabulary((c for i in ITEMS for c in i.captions), min_count=1)
    data = CaptionDataset(ITEMS, "toy")
    config = replace(recipe.decoder, grid_shape=eyes.grid_shape)
    decoder = AttentionDecoder(
        config, annotation_dim=eyes.annotation_dim, vocabulary_size=len(vocabulary)
    )
    state = TrainState.create(recipe, decoder, eyes, build_objective(recipe, data, vocabulary))
    trained = any(p.requires_grad for p in eyes.parameters())
    with torch.set_grad_enabled(trained):
        vectors = eyes(pixels)
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    chunks = make_chunks(encode_captions(data, vocabulary, recipe.data.max_length), 2)
    batch = Batch(vectors, mask, *collate(chunks), (0, 1))
    before = [p.detach().clone() for p in decoder.parameters()]
    loss = state.objective.loss(decoder, decoder.project(vectors, mask), batch, state.generator)
    assert bool(loss.total.isfinite())
    loss.total.backward()
    state.optimizer.step()
    after = list(decoder.parameters())
    assert all(bool(p.isfinite().all()) for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_the_paper_s_recipes_differ_where_they_must() -> None:
    soft, hard, soft_lite, hard_lite = (
        find_recipe(f"xu2015-{name}") for name in ("soft", "hard", "soft-lite0", "hard-lite0")
    )
    for one, other in ((soft, soft_lite), (hard, hard_lite)):
        for section in ("decoder", "data", "objective", "optimizer", "training", "evaluation"):
            assert getattr(one, section) == getattr(other, section)
    assert soft.encoder == hard.encoder
    assert soft_lite.encoder == hard_lite.encoder
    for recipe in (soft, hard):
        assert recipe.training.batching == "equal"
        assert recipe.optimizer.name == "rmsprop"
        assert recipe.evaluation.metric == "bleu4"


def test_every_recipe_has_a_line_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.M)) == set(shipped_recipes())


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(("name", "features"), [("xu2015-soft", 512), ("xu2015-soft-lite0", 1280)])
def test_the_paper_s_grid(name: str, features: int) -> None:
    eyes = encoder(find_recipe(name).encoder)
    assert eyes.grid_shape == (14, 14)
    assert eyes.annotation_dim == features


def test_the_recipes_of_clips_differ_where_they_must() -> None:
    for end in ("", "-lite0"):
        temporal, local, pooled = (
            find_recipe(name + end)
            for name in ("yao2015-temporal", "yao2015-local-temporal", "mean-pool")
        )
        assert replace(temporal.encoder.video, motion="conv3d", motion_dim=64) == replace(
            local.encoder.video, motion_dim=64
        )
        assert pooled.encoder == temporal.encoder
        assert replace(pooled.decoder, scores="additive") == temporal.decoder == local.decoder
        for section in ("data", "optimizer", "training", "evaluation"):
            assert getattr(temporal, section) == getattr(local, section)
            assert getattr(temporal, section) == getattr(pooled, section)
        assert (temporal.encoder.video.frames, temporal.encoder.video.first_frames) == (26, 240)
    paper = find_recipe("yao2015-temporal")
    assert paper.encoder.name == "googlenet"
    assert (paper.decoder.embedding_dim, paper.decoder.hidden_dim) == (468, 3518)
    assert paper.optimizer.name == "adadelta"
