"""Hard attention's objective: a lower bound on log p(y | a), trained by REINFORCE."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.config import ObjectiveConfig
from regard.model.decoder import AttentionDecoder
from regard.model.rng import Rng, uniform
from regard.training.objectives.base import (
    Batch,
    Loss,
    Objective,
    attention_entropy,
    caption_logprob,
    doubly_stochastic,
    expand_cells,
)
from regard.types import ProjectedAnnotations


class HardAttentionObjective(Objective):
    """The gradient of Xu et al. 2015, section 4.1 (equations 11 and 12):

        d log p(y|s,a) + lambda_r (log p(y|s,a) - b) d log p(s|a) + lambda_e d H[s]

    with one sample s per caption, **each term summed over the words of a caption and averaged
    over captions**; b <- 0.9 b + 0.1 log p(y|s,a), averaged over the batch's sampled captions.
    With `expectation_probability` a picture's sample is replaced by its expectation: drawn
    once per picture, as the paper says (the released code draws once per batch). Such captions
    have no sample, so they add nothing to the REINFORCE term or the baseline.

    The reward log p(y|s,a) is the paper's with `reward = "sum"`. The released code's is its mean
    over the words (`reward = "mean"`, with lambda_r = 0.1): a sum is mostly the caption's length,
    so that one baseline for all lengths calls every long caption bad.

    Deviation: where labels are smoothed or there are teachers, log p(y|s,a) is `caption_logprob`'s
    in every place above, in the reward and its baseline too: sum_v q(v) log p(v) of each word, the
    log-likelihood that the first term trains, and not the log-probability of the caption's own
    words. Without both the two are the same.
    """

    baseline: Tensor
    started: Tensor

    def __init__(self, config: ObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("baseline", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def loss(
        self,
        decoder: AttentionDecoder,
        projected: ProjectedAnnotations,
        batch: Batch,
        generator: Rng,
    ) -> Loss:
        """See `Objective.loss`."""
        expected = self._draw_switch(projected, batch, generator)
        unrolled = decoder(
            batch.tokens, projected, steps=batch.steps, context=expected, generator=generator
        )
        if unrolled.location_logprob is None:
            raise ValueError("HardAttentionObjective needs a decoder with hard attention")
        logprob = caption_logprob(unrolled, batch, self.config)
        path = (unrolled.location_logprob * batch.steps).sum(1)  # log p(s|a)
        words = batch.steps.sum(1)
        reward = logprob.detach() / (words if self.config.reward == "mean" else 1)
        entropy = attention_entropy(unrolled.alpha, batch.steps).mean()
        cells = expand_cells(projected.mask, batch.tokens.shape[0])
        penalty = doubly_stochastic(unrolled.alpha, batch.steps, cells)
        total = (
            -logprob.mean()
            + self.config.lambda_r * self.reinforce(reward, path, ~expected)
            - self.config.lambda_e * entropy
            + self.config.lambda_ds * penalty
        )
        words_per_caption = words.float().mean()
        parts = {
            "nll_per_word": (-logprob.mean() / words_per_caption).item(),
            "baseline": self.baseline.item(),
            "entropy_per_word": (entropy / words_per_caption).item(),
        }
        seen = torch.stack([(reward * ~expected).sum(), (~expected).sum()]).double()
        return Loss(total, parts, int(words.sum()), seen)

    @property
    def looks_first(self) -> bool:
        """Whether there is no baseline yet: the first batch sets it, before its own losses.

        No early step is so weighed against 0.
        """
        return not bool(self.started)

    def reinforce(self, reward: Tensor, path: Tensor, sampled: Tensor) -> Tensor:
        """Return -(reward - b) log p(s|a), **averaged over all captions**.

        Its gradient is the REINFORCE term; its value means nothing.

        Args:
            reward: (B,) log p(y|s,a) or its mean over the words; no gradient passes through it.
            path: (B,) log p(s|a).
            sampled: (B,) bool; captions whose context was an expectation count as 0.
        """
        # --8<-- [start:reinforce]
        advantage = (reward.detach() - self.baseline) * sampled
        return -(advantage * path).mean()
        # --8<-- [end:reinforce]

    def remember(self, seen: Tensor) -> None:
        """Move b towards the mean reward of the sampled captions (0.9 and 0.1).

        Args:
            seen: the sum of their rewards, and how many they are; the first sets b.
        """
        rewards, sampled = seen.tolist()
        if not sampled:
            return
        mean = rewards / sampled
        decay = self.config.baseline_decay if self.started else 0.0
        self.baseline.copy_(decay * self.baseline + (1 - decay) * mean)
        self.started.fill_(True)

    def _draw_switch(self, projected: ProjectedAnnotations, batch: Batch, generator: Rng) -> Tensor:
        """Return (B,) bool, True where a picture's sample is replaced by its expectation."""
        pictures = projected.mask.shape[0]
        chance = uniform(
            projected.values.new_empty((), dtype=torch.float32), (pictures,), generator
        )
        switch = chance < self.config.expectation_probability
        return switch.repeat_interleave(batch.tokens.shape[0] // pictures)
