"""Stage 1: the bank of concepts, learned from weak labels of whole pictures.

Captions and labels say that a picture shows a concept, not where. So a concept's logits in all
cells are joined to one of the picture by the logarithm of their mean exponential (multiple
instances), and the picture is trained: by binary cross-entropy over all concepts, and by a softmax
over them, which sharpens one concept against its neighbours.

What is learned is in the form of `regard.model.pointer.Pointer`: directions of cells and of whole
pictures, concepts' vectors and thresholds. The decoder gets them fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from projects.everyday.concept_words import ConceptWords
from projects.everyday.encode import PARTS, Parts
from projects.everyday.weak_labels import Examples
from regard import DatasetError
from regard.model.pointer import Pointer

EPOCHS, BATCH = 5, 64
_VECTOR_DIM = 512  # K, that of CLIP's own space, in which both maps begin
_MAP_RATE, _CONCEPT_RATE = 4e-4, 5e-3  # peaks: the maps begin near their end, concepts do not
_WEIGHT_DECAY = 1e-4
_WARM_UP = 0.1  # share of the steps
_DROPOUT = 0.1
_SOFTMAX_WEIGHT = 0.5
_SHARPNESS, _THRESHOLD = 12.0, 3.0  # at the beginning


@dataclass(frozen=True)
class Bank:
    """What a pointer knows about concepts; see the attributes of `Pointer`.

    Attributes:
        cell, cell_bias: (K, D) and (K,): an annotation to the direction of its cell.
        whole, whole_bias: the same for the mean annotation and the whole picture.
        sharpness: (2,), of a cell's and of a picture's likeness.
        vectors: (C, K).
        threshold: (C,).
    """

    cell: Tensor
    cell_bias: Tensor
    whole: Tensor
    whole_bias: Tensor
    sharpness: Tensor
    vectors: Tensor
    threshold: Tensor

    def fill(self, pointer: Pointer, forms: Tensor) -> None:
        """Give a pointer this bank; its maps stay fixed.

        Args:
            pointer: of as many concepts.
            forms: (C, 2) ids of the concepts' forms in the vocabulary.
        """
        pointer.cell = _fixed(self.cell, self.cell_bias)
        pointer.whole = _fixed(self.whole, self.whole_bias)
        pointer.sharpness = nn.Parameter(self.sharpness.clone(), requires_grad=False)
        pointer.set_bank(forms, self.vectors, self.threshold)

    def save(self, path: Path) -> None:
        """Write the bank as safetensors."""
        values = {f.name: getattr(self, f.name).detach().contiguous() for f in fields(self)}
        save_file(values, path)

    @classmethod
    def load(cls, path: Path, words: ConceptWords) -> Bank:
        """Read a bank.

        Raises:
            DatasetError: it cannot be read, or has another number of concepts than `words`.
        """
        try:
            bank = cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise DatasetError(
                f"the bank {path} cannot be read: {error}. Learn it with the command bank."
            ) from error
        if len(bank.vectors) != len(words):
            raise DatasetError(
                f"the bank {path} has {len(bank.vectors)} concepts, and the list has {len(words)}. "
                "Learn the bank again with this list."
            )
        return bank


def _fixed(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer.requires_grad_(False)


class ConceptHead(nn.Module):
    """The bank while it is trained: two LayerNorms more, which `bank` folds into the maps."""

    def __init__(
        self, concepts: int, parts: Parts = PARTS, projection: Tensor | None = None
    ) -> None:
        """Build the head.

        Args:
            concepts: C.
            parts: sizes of the annotations' parts.
            projection: (K, tokens), CLIP's from tokens to its space, from which the map of whole
                pictures begins; None: an orthogonal one.
        """
        super().__init__()
        self.parts = parts
        size = _VECTOR_DIM if projection is None else len(projection)
        self.norm_tokens, self.norm_dense = map(nn.LayerNorm, parts.sizes)
        self.cell = nn.Linear(parts.dense, size, bias=False)
        self.whole = nn.Linear(parts.tokens, size, bias=False)
        self.vectors = nn.Parameter(torch.randn(concepts, size) * 0.05)
        self.threshold = nn.Parameter(torch.full((concepts,), _THRESHOLD))
        self.sharpness = nn.Parameter(torch.full((2,), _SHARPNESS))
        with torch.no_grad():
            # The dense part lies in CLIP's space already.
            nn.init.eye_(self.cell.weight).mul_(0.7).add_(torch.randn(size, parts.dense) * 0.005)
            if projection is None:
                nn.init.orthogonal_(self.whole.weight)
            else:
                self.whole.weight.copy_(projection)
            self.whole.weight.mul_(0.03 / self.whole.weight.std())

    def wholes(self, cells: Tensor) -> Tensor:
        """Return the directions of whole pictures, (N, K), of length 1."""
        tokens = self.norm_tokens(cells[..., : self.parts.tokens])
        tokens = functional.dropout(tokens, _DROPOUT, self.training)
        return functional.normalize(self.whole(tokens.mean(1)), dim=-1)

    def scores(self, cells: Tensor) -> Tensor:
        """Return the logits of C concepts in every cell, (N, L, C), from annotations (N, L, D)."""
        dense = self.norm_dense(cells[..., self.parts.tokens :])
        dense = functional.dropout(dense, _DROPOUT, self.training)
        looks = functional.normalize(self.cell(dense), dim=-1)
        vectors = functional.normalize(self.vectors, dim=-1)
        of_cell, of_picture = self.sharpness.unbind()
        picture = of_picture * (self.wholes(cells) @ vectors.T) - self.threshold
        return of_cell * (looks @ vectors.T) + picture[:, None]

    def forward(self, cells: Tensor) -> Tensor:
        """Return the logits of the pictures, (N, C): log mean exp over the cells."""
        return self.scores(cells).float().logsumexp(1) - math.log(cells.shape[1])

    @torch.no_grad()
    def bank(self) -> Bank:
        """Return what was learned in a pointer's form: each map reads a whole annotation."""
        size, (tokens, dense) = len(self.cell.weight), self.parts.sizes
        nothing = self.cell.weight.new_zeros
        return Bank(
            torch.cat([nothing(size, tokens), self.cell.weight * self.norm_dense.weight], 1),
            self.cell.weight @ self.norm_dense.bias,
            torch.cat([self.whole.weight * self.norm_tokens.weight, nothing(size, dense)], 1),
            self.whole.weight @ self.norm_tokens.bias,
            self.sharpness.clone(),
            functional.normalize(self.vectors, dim=-1),
            self.threshold.clone(),
        )

    @torch.no_grad()
    def begin_from(self, examples: Examples) -> None:
        """Begin each concept at its pictures' mean direction, less that of all pictures."""
        self.eval()
        wholes = torch.cat([self.wholes(part.float()) for part in examples.cells.split(256)])
        shown = examples.targets * (examples.targets > 0.3)
        found = shown.T @ (wholes - wholes.mean(0))
        drawn = torch.randn_like(found) * 0.01  # concepts of the same pictures must part
        self.vectors.copy_(functional.normalize(found, dim=-1) + drawn)
        self.train()


def train_head(
    examples: Examples,
    *,
    parts: Parts = PARTS,
    projection: Tensor | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    bf16: bool = True,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> ConceptHead:
    """Train the bank by AdamW with one cycle of the rate.

    A picture is drawn the more often, the rarer its rarest concept is.

    Args:
        examples: the training pictures, pooled.
        parts: sizes of the annotations' parts.
        projection: see `ConceptHead`.
        epochs: draws of as many pictures as there are.
        batch_size: pictures a step.
        bf16: compute the products in bfloat16.
        seed: seed of weights, order and dropout.
        report: is called with (step, loss) after each step.

    Returns:
        The head in evaluation mode.
    """
    count, targets = len(examples.cells), examples.targets
    steps = max(epochs * (count // batch_size), 20)  # fewer are no cycle
    rare = rarities(targets)
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        head = ConceptHead(targets.shape[1], parts, projection)
        head.begin_from(examples)
        maps = [head.cell.weight, head.whole.weight]
        others = [p for p in head.parameters() if all(p is not one for one in maps)]
        optimizer = torch.optim.AdamW(
            [{"params": maps}, {"params": others}], weight_decay=_WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [_MAP_RATE, _CONCEPT_RATE], total_steps=steps, pct_start=_WARM_UP
        )
        for step in range(steps):
            drawn = torch.multinomial(rare, batch_size, replacement=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = head(examples.cells[drawn].float()).float()
            loss = head_loss(logits, targets[drawn], examples.absence[drawn])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            report(step + 1, loss.item())
    return head.eval()


def rarities(targets: Tensor) -> Tensor:
    """Return weights (N,) by which pictures are drawn the more often, the rarer their concepts."""
    rare = (targets / targets.sum(0).clamp_min(1).sqrt()).amax(1)
    return rare.clamp_min(float(rare[rare > 0].min()))


def head_loss(logits: Tensor, targets: Tensor, absence: Tensor) -> Tensor:
    """Return the loss of N pictures: summed over concepts, averaged over pictures.

    Args:
        logits: (N, C).
        targets: (N, C) in 0..1; concepts of a row share its softmax.
        absence: (N, 1), the weight of concepts whose target is 0.
    """
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    binary = torch.where(targets > 0, each, absence * each).sum(1).mean()
    shares = targets / targets.sum(1, keepdim=True).clamp_min(1e-6)
    return binary - _SOFTMAX_WEIGHT * (shares * logits.log_softmax(-1)).sum(1).mean()
