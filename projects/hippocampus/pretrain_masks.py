"""Pretraining of the scan encoder on masks and facts, before the decoder reads any words.

A caption of a hundred words states eighteen facts: too weak a signal to train a fresh encoder. A
mask gives the share of every cell that each part fills, and the facts' numbers are known. So the
encoder learns to predict both (`encoder.volume.numbers` and `parts` of the recipe), and its vectors
keep the predictions. It sees only the masks of training scans. If attention lies on a part, note
that the encoder was trained on parts before the decoder was trained on words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from projects.hippocampus.data import FactBook, load_facts, read_marked_scan
from projects.hippocampus.facts import ANTERIOR, FACTS, POSTERIOR
from projects.hippocampus.volume_pointing import GridMask
from regard import ConfigError
from regard.model.encoders import build_encoder
from regard.recipes import find_recipe, override

if TYPE_CHECKING:
    from regard.model.encoders import AuxiliaryHeads

_SHARES_WEIGHT = 2.0  # of the shares' loss beside that of the numbers
_BRIGHTNESS = 0.1  # standard deviation of a random factor and of a random addition
_NOISE = 0.03


@dataclass(frozen=True)
class Targets:
    """Training targets of an encoder, for N scans.

    Attributes:
        pixels: (N, *input_shape) float32.
        numbers: (N, K), the facts' numbers, standardised.
        shares: (N, L, P) in 0..1, the share of each cell that each part fills.
    """

    pixels: Tensor
    numbers: Tensor
    shares: Tensor


def pretrain_encoder(
    encoder: AuxiliaryHeads,
    targets: Targets,
    *,
    epochs: int,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train an encoder in place, by AdamW with a cosine schedule.

    The loss is the mean squared error of the numbers plus twice the binary cross-entropy of the
    shares, each averaged over all its elements.

    Args:
        encoder: predicts K numbers and P shares; all of it is trained, and it ends frozen and in
            evaluation mode.
        targets: targets of the training scans.
        epochs: passes over them.
        batch_size: scans a step.
        learning_rate: at the beginning.
        seed: seed of order and noise.
        report: is called with (epoch, mean loss) after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder.requires_grad_(True)
    weights = list(encoder.parameters())
    optimizer = torch.optim.AdamW(weights, learning_rate, weight_decay=0.01)
    steps = epochs * -(-len(targets.pixels) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        encoder.train()
        losses: list[float] = []
        for batch in _batches(targets, batch_size, generator):
            numbers, shares = encoder.predictions(encoder(batch.pixels))
            loss = F.mse_loss(numbers, batch.numbers)
            loss = loss + _SHARES_WEIGHT * F.binary_cross_entropy_with_logits(shares, batch.shares)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        encoder.eval()
        report(epoch + 1, sum(losses) / len(losses))
    encoder.requires_grad_(False)


def _batches(targets: Targets, size: int, generator: torch.Generator) -> Iterator[Targets]:
    order = torch.randperm(len(targets.pixels), generator=generator)
    for index in order.split(size):
        pixels = targets.pixels[index]
        shape = (len(index), *[1] * (pixels.dim() - 1))
        factor = 1 + _BRIGHTNESS * torch.randn(shape, generator=generator)
        more = _BRIGHTNESS * torch.randn(shape, generator=generator)
        noise = _NOISE * torch.randn(pixels.shape, generator=generator)
        # A voxel of 0 may lie outside the scan, and stays 0.
        pixels = torch.where(pixels == 0, pixels, pixels * factor + more + noise)
        yield Targets(pixels, targets.numbers[index], targets.shares[index])


def train_encoder(
    folder: Path,
    out: Path,
    *,
    recipe: str = "hippocampus-soft",
    epochs: int = 20,
    settings: list[str] | None = None,
    report: Callable[[int, float, float], None] = lambda epoch, loss, right: None,
) -> None:
    """Pretrain a recipe's encoder on a data set and write its weights after every epoch.

    Args:
        folder: written by `write_data`.
        out: safetensors file for `encoder.weights`.
        recipe: path or name of the recipe whose encoder is trained.
        epochs: passes over the training scans and their copies.
        settings: `section.key=value`, laid over the recipe.
        report: is called with (epoch, loss, share of the val facts whose class is right).

    Raises:
        ConfigError: the recipe's encoder predicts neither numbers nor parts.
        DatasetError: the data set cannot be read.
    """
    config = override(find_recipe(recipe), [*(settings or []), 'encoder.weights=""']).encoder
    if config.volume.numbers != len(FACTS) or config.volume.parts != 2:
        raise ConfigError(
            f"encoder.volume has numbers = {config.volume.numbers} and parts = "
            f"{config.volume.parts}; this data set has {len(FACTS)} facts and 2 parts. Set them so."
        )
    encoder: AuxiliaryHeads = build_encoder(config)  # type: ignore[assignment]
    book = load_facts(folder / "facts.json")
    names = {s: [k for k, split in book.splits.items() if split == s] for s in ("train", "val")}
    numbers = {split: _numbers(book, keys) for split, keys in names.items()}
    mean, spread = numbers["train"].mean(0), numbers["train"].std(0)
    targets = {
        split: read_targets(encoder, folder, keys, (numbers[split] - mean) / spread)
        for split, keys in names.items()
    }

    def after_epoch(epoch: int, loss: float) -> None:
        with torch.inference_mode():
            predicted = encoder.predictions(encoder(targets["val"].pixels))[0].numpy()
        report(epoch, loss, _share_right(predicted * spread + mean, names["val"], book))
        save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, out)

    pretrain_encoder(encoder, targets["train"], epochs=epochs, report=after_epoch)


def _numbers(book: FactBook, names: list[str]) -> np.ndarray:
    """Return every fact's number of some scans, (N, K) float32."""
    rows = [[book.values[key][fact.name] for fact in FACTS] for key in names]
    return np.array(rows).astype(np.float32)


def _share_right(numbers: np.ndarray, names: list[str], book: FactBook) -> float:
    """Return the share of predicted numbers (N, K) whose class is right."""
    right = [
        fact.class_of(float(value), book.thresholds[fact.name]) == book.classes[key][fact.name]
        for key, row in zip(names, numbers, strict=True)
        for fact, value in zip(FACTS, row, strict=True)
    ]
    return float(np.mean(right))


def read_targets(
    encoder: AuxiliaryHeads, folder: Path, names: list[str], numbers: np.ndarray
) -> Targets:
    """Read scans and masks as inputs and targets of an encoder.

    Args:
        encoder: reads and prepares the scans.
        folder: written by `write_data`.
        names: names of the scans.
        numbers: (N, K), standardised.
    """
    pixels: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    for name in names:
        prepared = encoder.prepare(encoder.read(folder / "scans" / name))
        marked = read_marked_scan(folder / "scans" / name, folder / "masks" / name)
        masks = [
            GridMask.of_mask(marked.mask == label, marked.spacing, prepared.grid)
            for label in (ANTERIOR, POSTERIOR)
        ]
        pixels.append(prepared.pixels)
        shares.append(np.stack([mask.shares for mask in masks], -1).astype(np.float32))
    arrays = (np.stack(pixels), numbers.astype(np.float32), np.stack(shares).clip(0, 1))
    return Targets(*map(torch.from_numpy, arrays))
