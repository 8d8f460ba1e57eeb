"""Training in memory by a recipe: its objective, optimizer and batches, on pixels at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from regard.captioner import Captioner
from regard.config import Recipe
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import build_encoder
from regard.text.vocabulary import build_vocabulary
from regard.training.batches import collate, make_chunks, plan_epoch
from regard.training.objectives.base import Batch
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.objectives.reinforce import HardAttentionObjective
from regard.training.state import build_optimizer, rate_factor, set_rate


def learn(recipe: Recipe, pixels: Tensor, captions: Sequence[str]) -> Captioner:
    """Train by the recipe on preprocessed items (N, *input_shape) with one caption each."""
    encoder = build_encoder(recipe.encoder)
    recipe = replace(recipe, decoder=replace(recipe.decoder, grid_shape=encoder.grid_shape))
    vocabulary = build_vocabulary(captions, min_count=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        decoder = AttentionDecoder(
            recipe.decoder, annotation_dim=encoder.annotation_dim, vocabulary_size=len(vocabulary)
        )
    chunks = make_chunks([[vocabulary.encode(caption)] for caption in captions], 1)
    kind = HardAttentionObjective if recipe.decoder.attention == "hard" else CrossEntropy
    objective = kind(recipe.objective)
    optimizer = build_optimizer(recipe.optimizer, decoder, encoder)
    generator = torch.Generator().manual_seed(recipe.training.seed)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    training = recipe.training
    plans = [
        plan_epoch(chunks, training.batch_size, training.batching, training.seed, epoch)
        for epoch in range(training.epochs)
    ]
    batches = [batch for plan in plans for batch in plan]
    for step, members in enumerate(batches):
        items = tuple(chunk.item for chunk in members)
        mask = torch.ones(len(items), math.prod(encoder.grid_shape), dtype=torch.bool)
        batch = Batch(pixels[list(items)], mask, *collate(members), items)
        projected = decoder.project(encoder(batch.vectors, mask), mask)
        if objective.needs_first_pass:
            before = generator.get_state()
            first = objective.loss(decoder, projected, batch, generator)
            generator.set_state(before)
            assert first.statistics is not None
            objective.update(first.statistics)
        loss = objective.loss(decoder, projected, batch, generator)
        if loss.statistics is not None:
            objective.update(loss.statistics)
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.optimizer.clip_norm)
        set_rate(optimizer, rate_factor(recipe.optimizer, step, len(batches)))
        optimizer.step()
    return Captioner(encoder.eval(), decoder.eval(), vocabulary, recipe, name=recipe.name)
