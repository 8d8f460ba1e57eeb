"""Self-critical training: raise the CIDEr-D of the captions that the model itself says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regard.config import ObjectiveConfig
from regard.decoder import AttentionDecoder
from regard.draws import Randomness, choose
from regard.training.cross_entropy import CrossEntropy
from regard.training.objective import Batch, Loss, Objective
from regard.types import ProjectedAnnotations
from regard.vocabulary import END, PAD, START, UNKNOWN

Reward = Callable[[int, list[int]], float]
"""Maps (index of the training picture, sampled word ids) to a reward."""

_NEVER_SAID = (PAD, START, UNKNOWN)


class SelfCritical(Objective):
    """REINFORCE on whole captions (Rennie et al. 2017, equation 9).

    The loss is -(r - b) log p(y), **summed over a caption's words, the end token's included,
    and averaged over samples**. One pass samples and yields the log-probabilities, dropout
    and all.

    Deviation: with several samples per picture b is the mean reward of the picture's other
    samples (a better baseline that needs no second decoding); with one sample it is the
    reward of the greedy caption, as in the paper.
    """

    def __init__(self, config: ObjectiveConfig, reward: Reward, max_length: int) -> None:
        """Take the reward in.

        Args:
            config: samples, reward_end_token and cross_entropy_weight are read.
            reward: scores one sampled caption of one picture.
            max_length: longest sample.
        """
        super().__init__()
        self.config = config
        self.reward = reward
        self.max_length = max_length
        self.cross_entropy = CrossEntropy(config)

    def loss(
        self,
        decoder: AttentionDecoder,
        projected: ProjectedAnnotations,
        batch: Batch,
        generator: Randomness,
    ) -> Loss:
        """See `Objective.loss`."""
        samples = self.config.samples
        mixed = None
        if self.config.cross_entropy_weight > 0:
            # Before the sampling, which draws for as long as captions last.
            mixed = self.cross_entropy.loss(decoder, projected, batch, generator).total
        tokens, logprob = self.sample(decoder, projected, samples, generator)
        rewards = self._rewards(tokens, batch.items, samples)
        baseline = self._baseline(decoder, projected, batch, rewards)
        total = policy_loss(rewards, baseline, logprob)
        if mixed is not None:
            total = total + self.config.cross_entropy_weight * mixed
        parts = {"reward": rewards.mean().item(), "baseline": baseline.mean().item()}
        return Loss(total, parts, int(batch.steps.sum()))

    def sample(
        self,
        decoder: AttentionDecoder,
        projected: ProjectedAnnotations,
        captions_per_item: int,
        generator: Randomness | None,
    ) -> tuple[Tensor, Tensor]:
        """Sample captions, or take the greedy ones where `generator` is None.

        Returns:
            tokens (B, T), <pad> after <end>; and log p(y) summed over each caption, (B,).
        """
        state = decoder.init_state(projected, captions_per_item, generator=generator)
        rows = state.hidden.shape[0]
        token = torch.full((rows,), START, device=state.hidden.device)
        alive = torch.ones_like(token, dtype=torch.bool)
        total = torch.zeros(rows, device=state.hidden.device)
        said: list[Tensor] = []
        for _ in range(self.max_length):
            step = decoder.step(token, state, projected, generator=generator)
            logits = step.logits.float()
            logits[:, list(_NEVER_SAID)] = -torch.inf
            logprobs = torch.log_softmax(logits, -1)
            token = _draw(logprobs.detach(), generator)
            chosen = logprobs.gather(1, token[:, None]).squeeze(1)
            total = total + torch.where(alive, chosen, 0.0)
            said.append(torch.where(alive, token, PAD))
            alive = alive & (token != END)
            state = step.state
            if not bool(alive.any()):
                break
        return torch.stack(said, 1), total

    def _rewards(self, tokens: Tensor, items: tuple[int, ...], samples: int) -> Tensor:
        kept = {PAD} if self.config.reward_end_token else {PAD, END}
        captions = [[t for t in row if t not in kept] for row in tokens.tolist()]
        values = [self.reward(items[i // samples], c) for i, c in enumerate(captions)]
        return torch.tensor(values, device=tokens.device)

    def _baseline(
        self,
        decoder: AttentionDecoder,
        projected: ProjectedAnnotations,
        batch: Batch,
        rewards: Tensor,
    ) -> Tensor:
        samples = self.config.samples
        if samples > 1:
            grouped = rewards.view(-1, samples)
            others = (grouped.sum(1, keepdim=True) - grouped) / (samples - 1)
            return others.flatten()
        decoder.eval()
        try:
            with torch.no_grad():
                tokens, _ = self.sample(decoder, projected, 1, None)
        finally:
            decoder.train()
        return self._rewards(tokens, batch.items, 1)


def policy_loss(rewards: Tensor, baseline: Tensor, logprob: Tensor) -> Tensor:
    """Return -(r - b) log p(y), **averaged over samples**; its gradient is 0 where r = b.

    Args:
        rewards: (B,).
        baseline: (B,).
        logprob: (B,), summed over each caption's words.
    """
    # --8<-- [start:self_critical]
    return -((rewards - baseline) * logprob).mean()
    # --8<-- [end:self_critical]


def _draw(logprobs: Tensor, generator: Randomness | None) -> Tensor:
    if generator is None:
        return logprobs.argmax(-1)
    return choose(logprobs.exp(), generator)
