"""What every training objective is: a loss with named parts on one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.config import ObjectiveConfig
from regard.model.decoder import AttentionDecoder, TeacherForcingOutput
from regard.model.rng import Rng
from regard.types import ProjectedAnnotations


@dataclass(frozen=True)
class Batch:
    """N pictures with G captions each; the G captions of a picture are consecutive rows.

    Attributes:
        vectors: (N, L, D_encoder) annotation vectors (or pixels (N, 3, S, S) for a trainable
            encoder, replaced by vectors before the objective sees them).
        mask: (N, L) bool, True = real cell.
        tokens: (B, T) what the decoder reads: <start>, then the words; padded.
        targets: (B, T) what it should say: the words, then <end>; padded.
        steps: (B, T) bool, True = a real target.
        items: index of each picture in the training set.
        taught: (R, V) what teachers say of each real word, ordered as by `pack_captions`;
            None: there are none.
    """

    vectors: Tensor
    mask: Tensor
    tokens: Tensor
    targets: Tensor
    steps: Tensor
    items: tuple[int, ...]
    taught: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and what it is made of, for the logs.

    Attributes:
        total: averaged over captions (or samples), so that the total of a batch is the mean of
            its parts' totals, each weighed by its pictures.
        parts: by name. Names that end in `_per_word` are averaged over words, others as `total`.
        words: real words of the batch, which weigh the former where parts are put together.
        seen: sums over the batch that `Objective.remember` wants, or None.
    """

    total: Tensor
    parts: dict[str, float]
    words: int
    seen: Tensor | None = None


class Objective(nn.Module, ABC):
    """A loss on one batch. What it must remember between steps it keeps in buffers.

    A batch may be done in parts, by several processes or one after the other: `loss` sees one
    part and changes nothing; `remember` is then told what all parts saw.
    """

    @property
    def looks_first(self) -> bool:
        """Whether `remember` must have been told of a batch before its losses are right."""
        return False

    def remember(self, seen: Tensor) -> None:
        """Take in the sum of `Loss.seen` over the parts of a batch."""

    @abstractmethod
    def loss(
        self,
        decoder: AttentionDecoder,
        projected: ProjectedAnnotations,
        batch: Batch,
        generator: Rng,
    ) -> Loss:
        """Return the loss.

        Args:
            decoder: in training mode.
            projected: the batch's N pictures.
            batch: the captions.
            generator: of dropout and sampling.
        """


_PLAIN = ObjectiveConfig()


def expand_cells(mask: Tensor, captions: int) -> Tensor:
    """Repeat the mask (N, L) for the captions of each picture, (B, L)."""
    return mask.repeat_interleave(captions // mask.shape[0], 0)


def caption_logprob(
    unrolled: TeacherForcingOutput, batch: Batch, config: ObjectiveConfig = _PLAIN
) -> Tensor:
    """Return log p(y | a): **summed over the words of each caption**, (B,), float32 or wider.

    Without a config it is that of the captions' own words. With label smoothing and teachers a
    word's log p(w) becomes sum_v q(v) log p(v), where q is the word, smoothed, and
    `teacher_weight` of what the teachers say (Hinton et al. 2015, at temperature 1).

    Args:
        unrolled: the decoder's reading of the batch.
        batch: targets, steps and taught are read.
        config: label_smoothing and teacher_weight are read.
    """
    losses = unrolled.losses(batch.targets, config.label_smoothing)
    if batch.taught is not None:
        taught = unrolled.packing.unpack(taught_losses(unrolled, batch.taught))
        losses = torch.lerp(losses, taught.to(losses.dtype), config.teacher_weight)
    return -(losses * batch.steps).sum(1)


def taught_losses(unrolled: TeacherForcingOutput, taught: Tensor) -> Tensor:
    """Return -sum_v t(v) log p(v) of every real word, **not reduced**: (R,).

    Args:
        unrolled: the decoder's reading of the batch.
        taught: t, (R, V), each row summing to 1.
    """
    # --8<-- [start:taught]
    logp = torch.log_softmax(unrolled.output(unrolled.features).float(), -1)
    return -(taught * logp).sum(-1)
    # --8<-- [end:taught]


def doubly_stochastic(alpha: Tensor, steps: Tensor, cells: Tensor) -> Tensor:
    """Penalise cells that a caption looked at too little or too much.

    sum_i (1 - sum_t alpha_ti)^2 (Xu et al. 2015, equation 14): **summed over valid cells,
    averaged over captions**; padding steps are left out. Published code scales this in other
    ways: the released code sums over the batch and averages over cells (batch / L times
    this), others average over both (1 / L times this).

    Args:
        alpha: (B, T, L).
        steps: (B, T) bool, True = a real word.
        cells: (B, L) bool, True = a real cell.

    Returns:
        A scalar.
    """
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
    # Not torch.special.entr: its slope at 0 is infinite, and alpha gets there in float32.
    entropy = -(alpha * alpha.clamp_min(torch.finfo(alpha.dtype).tiny).log()).sum(-1)
    return (entropy * steps).sum(1)
