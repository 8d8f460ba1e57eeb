"""The interface of training objectives, and the terms that several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from regard.config import ObjectiveConfig
from regard.model.decoder import AttentionDecoder, TeacherForcingOutput
from regard.model.rng import Rng
from regard.model.unroll import Packing, pack_captions
from regard.types import ProjectedAnnotations


@dataclass(frozen=True)
class Batch:
    """N pictures with G captions each; the G captions of a picture are consecutive rows.

    Attributes:
        vectors: (N, L, D_encoder) annotation vectors (or pixels (N, 3, S, S) for a trainable
            encoder, replaced by vectors before the objective sees them).
        mask: (N, L) bool, True = real cell.
        tokens: (B, T) inputs of the decoder: <start>, then the words; padded.
        targets: (B, T) the words, then <end>; padded.
        steps: (B, T) bool, True = a real target.
        items: index of each picture in the training set.
        teacher: (R, V) the teachers' probabilities of every real word, in the row order of
            `packing(steps)`; None without teachers.
    """

    vectors: Tensor
    mask: Tensor
    tokens: Tensor
    targets: Tensor
    steps: Tensor
    items: tuple[int, ...]
    teacher: Tensor | None = None

    @cached_property
    def rows(self) -> Packing:
        """The layout of the real words; plan it on the CPU, which `to` does."""
        return pack_captions(self.steps)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device. Its rows are planned on the CPU first, to avoid waiting."""
        names = ("vectors", "mask", "tokens", "targets", "steps")
        moved = replace(self, **{name: copied(getattr(self, name), device) for name in names})
        moved.__dict__["rows"] = self.rows.to(device)
        return moved


def copied(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; copies to a CUDA GPU go on in the background."""
    if x.device == device:
        return x
    pinned = device.type == "cuda" and x.device.type == "cpu"
    return (x.pin_memory() if pinned else x).to(device, non_blocking=True)


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and its parts, for the logs. All tensors stay on the device.

    Attributes:
        total: averaged over captions (or samples), so that the total of a batch is the mean of
            the totals of its parts, weighted by their pictures.
        parts: scalars by name, without gradients. Names that end in `_per_word` are averaged over
            words, others as `total`.
        words: real words of the batch, the weight of the `_per_word` parts.
        statistics: sums over the batch for `Objective.update`, or None.
    """

    total: Tensor
    parts: dict[str, Tensor]
    words: int
    statistics: Tensor | None = None


class Objective(nn.Module, ABC):
    """A loss on one batch. State from earlier steps is stored in buffers.

    A batch may be processed in parts, by several processes or one after the other: `loss` sees one
    part and changes nothing; `update` receives the sums over all parts.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def needs_first_pass(self) -> bool:
        """Whether `update` must run on a batch before its losses are valid."""
        return False

    def update(self, statistics: Tensor) -> None:
        """Update the buffers with the sum of `Loss.statistics` over the parts of a batch."""

    @abstractmethod
    def loss(
        self, decoder: AttentionDecoder, projected: ProjectedAnnotations, batch: Batch, draws: Rng
    ) -> Loss:
        """Return the loss.

        Args:
            decoder: in training mode.
            projected: the batch's N pictures.
            batch: the captions.
            draws: of dropout and sampling.
        """


_PLAIN = ObjectiveConfig()


def caption_logprob(
    unrolled: TeacherForcingOutput, batch: Batch, config: ObjectiveConfig = _PLAIN
) -> Tensor:
    """Return log p(y | a): **summed over the words of each caption**, (B,), float32 or wider.

    Without a config it is that of the captions' own words. With label smoothing and teachers a
    word's log p(w) becomes sum_v q(v) log p(v), where q is the smoothed word mixed with
    `teacher_weight` of the teachers' probabilities (Hinton et al. 2015, at temperature 1).

    Args:
        unrolled: the decoder's outputs for the batch.
        batch: targets, steps and teacher are read.
        config: label_smoothing and teacher_weight are read.
    """
    losses = unrolled.losses(batch.targets, config.label_smoothing)
    if batch.teacher is not None:
        taught = unrolled.packing.unpack(teacher_losses(unrolled, batch.teacher))
        losses = torch.lerp(losses, taught.to(losses.dtype), config.teacher_weight)
    return -(losses * batch.steps).sum(1)


def teacher_losses(unrolled: TeacherForcingOutput, teacher: Tensor) -> Tensor:
    """Return -sum_v t(v) log p(v) of every real word, **not reduced**: (R,).

    Args:
        unrolled: the decoder's outputs for the batch.
        teacher: t, (R, V), each row summing to 1.
    """
    # --8<-- [start:taught]
    logp = torch.log_softmax(unrolled.row_logits().float(), -1)
    return -(teacher * logp).sum(-1)
    # --8<-- [end:taught]


def doubly_stochastic(alpha: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
    """Penalise cells that a caption looked at too little or too much.

    sum_i (1 - sum_t alpha_ti)^2 (Xu et al. 2015, equation 14): **summed over valid cells,
    averaged over captions**; padding steps are left out. Published code scales this in other
    ways: the released code sums over the batch and averages over cells (batch / L times
    this), others average over both (1 / L times this).

    Args:
        alpha: (B, T, L).
        steps: (B, T) bool, True = a real word.
        mask: (N, L) bool, True = a real cell; B / N consecutive captions share a row.

    Returns:
        A scalar.
    """
    cells = mask.repeat_interleave(alpha.shape[0] // mask.shape[0], 0)  # (B, L)
    # --8<-- [start:doubly]
    looked = (alpha * steps.unsqueeze(-1)).sum(1)  # sum_t alpha_ti, (B, L)
    return ((1 - looked).square() * cells).sum(1).mean()
    # --8<-- [end:doubly]


def attention_entropy(alpha: Tensor, steps: Tensor) -> Tensor:
    """Return H[s] = -sum_t sum_i alpha_ti log alpha_ti in nats.

    **Summed over cells and real words**, one value per caption.

    Args:
        alpha: (B, T, L); cells with alpha 0 add nothing.
        steps: (B, T) bool.

    Returns:
        (B,).
    """
    # Not torch.special.entr: its slope at 0 is infinite, and alpha underflows to 0 in float32.
    entropy = -(alpha * alpha.clamp_min(torch.finfo(alpha.dtype).tiny).log()).sum(-1)
    return (entropy * steps).sum(1)
