"""The objective of soft attention: cross-entropy with the doubly stochastic penalty."""

from regard.model.decoder import AttentionDecoder
from regard.model.rng import Rng
from regard.training.objectives.base import (
    Batch,
    Loss,
    Objective,
    caption_logprob,
    doubly_stochastic,
)
from regard.types import ProjectedAnnotations


class CrossEntropy(Objective):
    """L_d = -log p(y | a) + lambda_ds sum_i (1 - sum_t alpha_ti)^2 (equation 14).

    The negative log-likelihood is **summed over a caption's words and averaged over
    captions**, as in the paper, so that lambda_ds weights two sums over one caption.
    """

    def loss(
        self, decoder: AttentionDecoder, projected: ProjectedAnnotations, batch: Batch, draws: Rng
    ) -> Loss:
        """See `Objective.loss`."""
        unrolled = decoder(batch.tokens, projected, steps=batch.rows, generator=draws)
        nll = -caption_logprob(unrolled, batch, self.config).mean()
        penalty = doubly_stochastic(unrolled.alpha, batch.steps, projected.mask)
        words = batch.steps.sum() / batch.steps.shape[0]
        return Loss(
            nll + self.config.lambda_ds * penalty,
            {"nll_per_word": (nll / words).detach(), "doubly_stochastic": penalty.detach()},
            len(batch.rows.flat),
        )
