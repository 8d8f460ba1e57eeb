"""The objective of hard attention: a lower bound on log p(y | a), trained by REINFORCE."""

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
)
from regard.types import ProjectedAnnotations


class HardAttentionObjective(Objective):
    """The gradient of Xu et al. 2015, section 4.1 (equations 11 and 12):

        d log p(y|s,a) + lambda_r (log p(y|s,a) - b) d log p(s|a) + lambda_e d H[s]

    with one sample s per caption, **each term summed over the words of a caption and averaged
    over captions**; b <- 0.9 b + 0.1 log p(y|s,a), averaged over the batch's sampled captions.
    With probability `expectation_probability` a picture's sample is replaced by its expectation,
    drawn once per picture as in the paper (the released code draws once per batch). Such captions
    have no sample, so they add nothing to the REINFORCE term or the baseline.

    `reward = "sum"` is the paper's reward log p(y|s,a). `reward = "mean"` is the released code's,
    its mean over the words, with lambda_r = 0.1: a sum is mostly the caption's length, so one
    baseline for all lengths makes every long caption look bad.

    Deviation: with label smoothing or teachers, log p(y|s,a) is that of `caption_logprob` in every
    place above, also in the reward and its baseline: sum_v q(v) log p(v) of each word, the
    log-likelihood that the first term trains, and not the log-probability of the caption's own
    words. Without both the two are the same.
    """

    baseline: Tensor
    started: Tensor

    def __init__(self, config: ObjectiveConfig) -> None:
        super().__init__(config)
        self.register_buffer("baseline", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def loss(
        self, decoder: AttentionDecoder, projected: ProjectedAnnotations, batch: Batch, draws: Rng
    ) -> Loss:
        """See `Objective.loss`."""
        expected = self._draw_expected(projected, batch, draws)
        unrolled = decoder(
            batch.tokens, projected, steps=batch.rows, context=expected, generator=draws
        )
        if unrolled.location_logprob is None:
            raise ValueError("HardAttentionObjective needs a decoder with hard attention")
        logprob = caption_logprob(unrolled, batch, self.config)
        path = (unrolled.location_logprob * batch.steps).sum(1)  # log p(s|a)
        words = batch.steps.sum(1)
        reward = logprob.detach() / (words if self.config.reward == "mean" else 1)
        entropy = attention_entropy(unrolled.alpha, batch.steps).mean()
        penalty = doubly_stochastic(unrolled.alpha, batch.steps, projected.mask)
        total = (
            -logprob.mean()
            + self.config.lambda_r * self.reinforce(reward, path, ~expected)
            - self.config.lambda_e * entropy
            + self.config.lambda_ds * penalty
        )
        words_per_caption = words.float().mean()
        parts = {
            "nll_per_word": (-logprob.mean() / words_per_caption).detach(),
            "baseline": self.baseline.clone(),
            "entropy_per_word": (entropy / words_per_caption).detach(),
        }
        statistics = torch.stack([(reward * ~expected).sum(), (~expected).sum()])
        return Loss(total, parts, len(batch.rows.flat), statistics)

    @property
    def needs_first_pass(self) -> bool:
        """Whether the baseline is not set yet. The first batch sets it before its own losses.

        Otherwise the first rewards would be compared with 0.
        """
        return not bool(self.started)

    def reinforce(self, reward: Tensor, path: Tensor, sampled: Tensor) -> Tensor:
        """Return -(reward - b) log p(s|a), **averaged over all captions**.

        Its gradient is the REINFORCE term; its value has no meaning.

        Args:
            reward: (B,) log p(y|s,a) or its mean over the words; no gradient passes through it.
            path: (B,) log p(s|a).
            sampled: (B,) bool; captions whose context was an expectation count as 0.
        """
        # --8<-- [start:reinforce]
        advantage = (reward.detach() - self.baseline) * sampled
        return -(advantage * path).mean()
        # --8<-- [end:reinforce]

    def update(self, statistics: Tensor) -> None:
        """Move b towards the mean reward of the sampled captions (0.9 and 0.1).

        Args:
            statistics: the sum of their rewards and their number; the first ones set b.
        """
        rewards, sampled = statistics.tolist()
        if not sampled:
            return
        mean = rewards / sampled
        decay = self.config.baseline_decay if self.started else 0.0
        self.baseline.copy_(decay * self.baseline + (1 - decay) * mean)
        self.started.fill_(True)

    def _draw_expected(self, projected: ProjectedAnnotations, batch: Batch, draws: Rng) -> Tensor:
        """Return (B,) bool, True where a picture's sample is replaced by its expectation."""
        pictures = projected.mask.shape[0]
        like = projected.values.new_empty((), dtype=torch.float32)
        drawn = uniform(like, (pictures,), draws) < self.config.expectation_probability
        return drawn.repeat_interleave(batch.tokens.shape[0] // pictures)
