"""Self-critical training: raise what the captions that the model itself says are worth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from regard.backends.torch_backend import TorchStep, evaluating
from regard.config import ObjectiveConfig
from regard.model.decoder import AttentionDecoder, TeacherForcingOutput
from regard.model.rng import Rng, sample_categorical, spawn
from regard.text.vocabulary import END, PAD, START, UNKNOWN
from regard.training.objectives.base import Batch, Loss, Objective
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.types import ProjectedAnnotations

Reward = Callable[[int, list[int]], float]
"""Maps (index of the training picture, sampled word ids) to a reward."""

_NEVER_SAID = (PAD, START, UNKNOWN)
_MOST_UNSAID = 0.999  # where rounding makes it 1, the rest has no logarithm


class SelfCritical(Objective):
    """REINFORCE on whole captions (Rennie et al. 2017, equation 9).

    The loss is -(r - b) log p(y), **summed over a caption's words, the end token's included,
    and averaged over samples**.

    Deviations: with several samples per picture b is the mean reward of the picture's other
    samples (a better baseline that needs no second decoding); with one sample it is the
    reward of the greedy caption, as in the paper. Captions are sampled without dropout, as they
    will be said, and then read with it by teacher forcing, which gives log p(y): the policy that
    speaks and the one that learns differ by the dropout. Sampling needs no gradients then, and
    takes the compiled step.
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
        generator: Rng,
    ) -> Loss:
        """See `Objective.loss`."""
        samples = self.config.samples
        tokens = self.sample(decoder, projected, samples, spawn(generator))
        rewards = self._rewards(tokens, batch.items, samples)
        baseline = self._baseline(decoder, projected, batch, rewards)
        read = torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], 1)
        unrolled = decoder(read, projected, steps=tokens != PAD, generator=generator)
        logprob = said_logprob(unrolled, tokens).sum(1)
        total = policy_loss(rewards, baseline, logprob)
        if self.config.cross_entropy_weight > 0:
            mixed = self.cross_entropy.loss(decoder, projected, batch, generator).total
            total = total + self.config.cross_entropy_weight * mixed
        parts = {"reward": rewards.mean().item(), "baseline": baseline.mean().item()}
        return Loss(total, parts, int(batch.steps.sum()))

    def sample(
        self,
        decoder: AttentionDecoder,
        projected: ProjectedAnnotations,
        captions_per_item: int,
        generator: Rng | None,
    ) -> Tensor:
        """Sample captions, or take the greedy ones where `generator` is None.

        Returns:
            (B, max_length) word ids, <pad> after <end>: all of that length, so that the reading
            that follows draws the same numbers whatever was said.
        """
        with torch.no_grad(), evaluating(decoder):
            compiled = TorchStep.from_decoder(decoder)
            step = (
                partial(decoder.step, projected=projected)
                if compiled is None
                else partial(compiled, projected=compiled.pack(projected))
            )
            state = decoder.init_state(projected, captions_per_item)
            rows = state.hidden.shape[0]
            token = torch.full((rows,), START, device=state.hidden.device)
            alive = torch.ones_like(token, dtype=torch.bool)
            said = torch.full((rows, self.max_length), PAD, device=token.device)
            for t in range(self.max_length):
                found = step(token, state)
                logits = found.logits.float()
                logits[:, list(_NEVER_SAID)] = -torch.inf
                token = _draw(logits, generator)
                said[:, t] = torch.where(alive, token, PAD)
                alive = alive & (token != END)
                state = found.state
                if not bool(alive.any()):
                    break
        return said

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
        return self._rewards(self.sample(decoder, projected, 1, None), batch.items, 1)


def said_logprob(unrolled: TeacherForcingOutput, words: Tensor) -> Tensor:
    """Return log p of words among those that may be said, **not reduced**: (B, T), 0 at padding.

    Without <pad>, <start> and <unk>, which are never sampled: a policy that gives them more must
    not gain by it.

    Args:
        unrolled: the decoder's reading of captions.
        words: (B, T) their ids.
    """
    rows, layer = unrolled.packing, unrolled.output
    features, word = unrolled.features.float(), rows.pack(words)
    losses = rows.pack(unrolled.losses(words))
    normaliser = losses + (features * layer.weight[word]).sum(-1) + layer.bias[word]
    never = list(_NEVER_SAID)
    unsaid = features @ layer.weight[never].t() + layer.bias[never] - normaliser[:, None]
    share = unsaid.exp().sum(-1).clamp(max=_MOST_UNSAID)
    return rows.unpack(-losses - torch.log1p(-share))


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


def _draw(logits: Tensor, generator: Rng | None) -> Tensor:
    if generator is None:
        return logits.argmax(-1)
    return sample_categorical(torch.softmax(logits, -1), generator)
