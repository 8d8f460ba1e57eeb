"""One step: loss, backward, clip, finite check before the update, update.

The step's batch is done in parts where there are several devices or `training.accumulate` says so:
every device takes its parts one after the other, then the gradients are summed. Parts are weighed
by their pictures and see the random numbers of the whole batch (`regard.model.rng`), so that a
step is the same up to rounding however its batch is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.model.rng import SlicedGenerator
from regard.training.batches import Chunk
from regard.training.devices import Devices
from regard.training.distillation import mean_taught
from regard.training.inputs import draw_views, make_batch
from regard.training.objectives.base import Loss
from regard.training.optimizer import set_rate
from regard.training.setup import Run

_PER_WORD = "_per_word"


@dataclass(frozen=True)
class Update:
    """What a step found, over the whole batch.

    Attributes:
        loss: before the update.
        parts: of the loss, by name.
    """

    loss: float
    parts: dict[str, float]


def make_step(run: Run, chunks: list[Chunk], factor: float) -> Update:
    """Update the weights once.

    Args:
        run: its state changes.
        chunks: of the whole batch.
        factor: what the peak learning rate is multiplied with.

    Raises:
        RegardError: loss or gradient are not finite; the weights were not updated.
    """
    recipe, state = run.recipe, run.state
    state.optimizer.zero_grad(set_to_none=True)  # first: their memory is free for this step
    state.decoder.train()
    state.encoder.train(recipe.encoder.trainable)
    views = draw_views(recipe.data, len(chunks), state.generator)
    seed = int(torch.randint(2**63 - 1, (), generator=state.generator))
    if state.objective.looks_first:
        with torch.no_grad():
            _pass(run, chunks, views, seed, backward=False)
    update = _pass(run, chunks, views, seed, backward=True)
    _sum_gradients(state.parameters(), run.devices)
    limit = recipe.optimizer.clip_norm or math.inf
    norm = nn.utils.clip_grad_norm_(state.parameters(), limit)
    if not math.isfinite(update.loss) or not math.isfinite(norm.item()):
        raise RegardError(
            f"the loss is {update.loss} and the gradient's norm {norm.item()} at step "
            f"{state.step}; the weights were not updated. {_what_helps(run)}"
        )
    set_rate(state.optimizer, factor)
    state.optimizer.step()
    if state.average is not None:
        state.average.update(state.parameters())
    return update


def _what_helps(run: Run) -> str:
    """Say how to go on after a step that failed: resuming would come to the same step again."""
    last = run.folder / "last"
    rate = run.recipe.optimizer.learning_rate / 2
    settings = f"--set optimizer.learning_rate={rate:g}"
    if run.recipe.training.precision != "fp32":
        settings += " --set training.precision=fp32"
    return (
        f"{last} holds the state of the last evaluation or save, and --resume would fail again. "
        "Begin a new run from it, with this one's recipe and data and a lower rate: regard train "
        f"RECIPE --data CAPTIONS --images FOLDER --init {last} {settings} --out ANOTHER."
    )


def own_parts(devices: Devices, parts: int, pictures: int) -> Iterator[tuple[slice, float]]:
    """Yield which pictures of a batch each of this device's passes takes, and their share.

    Every device makes the same number of passes. Pictures go to the parts in turn, since their
    captions stand in the order of length. A part without pictures takes the first one with a
    share of 0: its device then does what the others do.

    Args:
        devices: their number and this one's rank.
        parts: that the batch was made for; more are taken where the devices do not divide them.
        pictures: of the batch.
    """
    passes = -(-parts // devices.world)
    parts = passes * devices.world
    for part in range(devices.rank, parts, devices.world):
        if part < pictures:
            yield slice(part, None, parts), len(range(part, pictures, parts)) / pictures
        else:
            yield slice(0, 1), 0.0


def _pass(run: Run, chunks: list[Chunk], views: list[str], seed: int, *, backward: bool) -> Update:
    """Go through the batch once and tell the objective what it saw."""
    state, devices = run.state, run.devices
    found: list[tuple[Loss, float]] = []
    longest = max(chunk.length for chunk in chunks)
    for part, share in own_parts(devices, state.parts, len(chunks)):
        batch = make_batch(chunks[part], run.splits.train, run.pictures, views[part], longest)
        if run.teachers:
            items = [run.splits.train.items[i] for i in batch.items]
            batch = replace(batch, taught=mean_taught(run.teachers, batch, items, views[part]))
        rng = SlicedGenerator(torch.Generator().manual_seed(seed), part, len(chunks))
        with devices.autocast(run.recipe.training.precision):
            vectors = run.pictures.vectors(batch.vectors, batch.mask)
            projected = state.decoder.project(vectors, batch.mask)
            loss = state.objective.loss(state.decoder, projected, batch, rng)
        if backward:
            devices.backward(loss.total * share)
        found.append((loss, share))
    return _put_together(run, found)


def _put_together(run: Run, found: list[tuple[Loss, float]]) -> Update:
    """Return the whole batch's loss from the parts of all devices."""
    names = list(found[0][0].parts)
    seen = torch.zeros(0, dtype=torch.float64)
    sums = torch.zeros(2 + len(names), dtype=torch.float64)
    for loss, share in found:
        words = loss.words if share else 0
        weights = [words if name.endswith(_PER_WORD) else share for name in names]
        values = [v * w for v, w in zip(loss.parts.values(), weights, strict=True)]
        sums += torch.tensor([loss.total.item() * share, words, *values], dtype=torch.float64)
        if loss.seen is not None:
            seen = loss.seen * bool(share) + (seen if len(seen) else 0)
    total, words, *values = run.devices.sum(torch.cat([sums, seen.double()])).tolist()
    if len(seen):
        run.state.objective.remember(torch.tensor(values[len(names) :]))
    parts = {
        name: value / words if name.endswith(_PER_WORD) else value
        for name, value in zip(names, values, strict=False)
    }
    return Update(total, parts)


def _sum_gradients(parameters: list[nn.Parameter], devices: Devices) -> None:
    """Give every device the sum of all devices' gradients."""
    if devices.world == 1:
        return
    reached = [p for p in parameters if p.grad is not None]  # on every device the same
    gradients = [p.grad for p in reached if p.grad is not None]
    flat = devices.sum(torch.cat([g.flatten() for g in gradients]))
    pieces: tuple[Tensor, ...] = flat.split([g.numel() for g in gradients])
    for parameter, piece in zip(reached, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)
