"""Hard attention: the decoder looks at one cell."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.errors import UnknownName
from regard.model.attention.soft import Attended, Attention, expected_context
from regard.model.rng import Randomness, choose
from regard.types import ProjectedAnnotations


class HardAttention(Attention):
    """Stochastic attention: s_t ~ Multinoulli(alpha_t), z_t = a_{s_t} (Xu et al. 2015, 4.1).

    Training samples (`context="sample"`) and weighs the gradient by REINFORCE. At test time
    the sampled, the most likely or the expected location can be asked for; the released
    code takes the expectation, and so does the default here.
    """

    def forward(
        self,
        hidden: Tensor,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: Randomness | None = None,
    ) -> Attended:
        """See `Attention.forward`.

        Raises:
            UnknownName: `context` is none of "expected", "sample" and "argmax".
        """
        log_alpha = self.log_alpha(hidden, projected)
        alpha = log_alpha.exp()
        if context == "expected":
            attended = expected_context(alpha, projected)
            return Attended(attended.flatten(0, 1), alpha.flatten(0, 1))
        if context == "sample":
            location = choose(alpha.detach().flatten(0, 1), generator)[:, None]
        elif context == "argmax":
            location = alpha.flatten(0, 1).argmax(dim=-1, keepdim=True)
        else:
            raise UnknownName("context", context, ("expected", "sample", "argmax"))
        location_logprob = log_alpha.flatten(0, 1).gather(1, location).squeeze(1)
        chosen = _gather(projected.values, location.view(log_alpha.shape[:2]))
        return Attended(
            chosen.flatten(0, 1), alpha.flatten(0, 1), location.squeeze(1), location_logprob
        )


def _gather(values: Tensor, location: Tensor) -> Tensor:
    """Return a_{s}, (N, G, D), of values (N, L, D) at cells (N, G)."""
    return values[torch.arange(values.shape[0], device=values.device)[:, None], location]
