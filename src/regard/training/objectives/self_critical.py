"""Self-critical training: raise the expected reward of the captions that the model samples."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from regard.backends.torch_backend import TorchStep, evaluating
from regard.config import ObjectiveConfig
from regard.data.dataset import CaptionDataset
from regard.metrics.cider import CiderD, sentence_bleu
from regard.metrics.tokenize import reward_tokens
from regard.model.decoder import AttentionDecoder, TeacherForcingOutput
from regard.model.rng import Rng, sample_categorical, spawn
from regard.model.unroll import pack_captions
from regard.text.vocabulary import END, PAD, SPECIALS, START, UNKNOWN, Vocabulary
from regard.training.objectives.base import Batch, Loss, Objective
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.types import ProjectedAnnotations

Reward = Callable[[int, list[int]], float]
"""Maps (index of the training picture, sampled word ids) to a reward."""

_NEVER_SAMPLED = (PAD, START, UNKNOWN)
_MAX_EXCLUDED = 0.999  # probability of the excluded words; the rest needs a logarithm


class SelfCritical(Objective):
    """REINFORCE on whole captions (Rennie et al. 2017, equation 9).

    The loss is -(r - b) log p(y), **summed over a caption's words, the end token's included,
    and averaged over samples**.

    Deviations: with several samples per picture b is the mean reward of the picture's other
    samples (a better baseline that needs no second decoding); with one sample it is the
    reward of the greedy caption, as in the paper. Captions are sampled without dropout, as in
    use, and then scored with dropout by teacher forcing, which gives log p(y): the sampling and
    the trained policy differ by the dropout. Sampling then needs no gradients and uses the
    compiled step.
    """

    def __init__(self, config: ObjectiveConfig, reward: Reward, max_length: int) -> None:
        """Set up the objective.

        Args:
            config: samples, reward_end_token and cross_entropy_weight are read.
            reward: scores one sampled caption of one picture.
            max_length: length of the longest sample.
        """
        super().__init__(config)
        self.reward = reward
        self.max_length = max_length
        self.cross_entropy = CrossEntropy(config)

    def loss(
        self, decoder: AttentionDecoder, projected: ProjectedAnnotations, batch: Batch, draws: Rng
    ) -> Loss:
        """See `Objective.loss`."""
        samples = self.config.samples
        tokens = sample_captions(decoder, projected, samples, spawn(draws), self.max_length)
        rewards = self._rewards(tokens, batch.items, samples)
        if samples > 1:  # the mean of a picture's other samples
            grouped = rewards.view(-1, samples)
            others = (grouped.sum(1, keepdim=True) - grouped) / (samples - 1)
            baseline = others.flatten()
        else:
            greedy = sample_captions(decoder, projected, 1, None, self.max_length)
            baseline = self._rewards(greedy, batch.items, 1)
        read = torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], 1)
        rows = pack_captions((tokens != PAD).cpu()).to(tokens.device)
        unrolled = decoder(read, projected, steps=rows, generator=draws)
        logprob = sampled_logprob(unrolled, tokens).sum(1)
        total = policy_loss(rewards, baseline, logprob)
        if self.config.cross_entropy_weight > 0:
            mixed = self.cross_entropy.loss(decoder, projected, batch, draws).total
            total = total + self.config.cross_entropy_weight * mixed
        parts = {"reward": rewards.mean(), "baseline": baseline.mean()}
        return Loss(total, parts, len(batch.rows.flat))

    def _rewards(self, tokens: Tensor, items: tuple[int, ...], samples: int) -> Tensor:
        kept = {PAD} if self.config.reward_end_token else {PAD, END}
        captions = [[t for t in row if t not in kept] for row in tokens.tolist()]
        values = [self.reward(items[i // samples], c) for i, c in enumerate(captions)]
        return torch.tensor(values, device=tokens.device)


def sample_captions(
    decoder: AttentionDecoder,
    projected: ProjectedAnnotations,
    captions_per_item: int,
    generator: Rng | None,
    max_length: int,
) -> Tensor:
    """Sample captions without dropout, or decode greedily if `generator` is None.

    Args:
        decoder: of the captions; its mode is kept.
        projected: annotations of N items.
        captions_per_item: G, so that B = N·G; those of an item are consecutive.
        generator: of the samples.
        max_length: T, of the longest caption.

    Returns:
        (B, T) word ids, <pad> after <end>. The length is fixed, so that the teacher
        forcing that follows draws the same random numbers whatever was sampled.
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
        sampled = torch.full((rows, max_length), PAD, device=token.device)
        for t in range(max_length):
            found = step(token, state)
            logits = found.logits.float()
            logits[:, list(_NEVER_SAMPLED)] = -torch.inf
            if generator is None:
                token = logits.argmax(-1)
            else:
                token = sample_categorical(torch.softmax(logits, -1), generator)
            sampled[:, t] = torch.where(alive, token, PAD)
            alive = alive & (token != END)
            state = found.state
            if not bool(alive.any()):
                break
    return sampled


def sampled_logprob(unrolled: TeacherForcingOutput, words: Tensor) -> Tensor:
    """Return log p of words among those that are sampled, **not reduced**: (B, T), 0 at padding.

    <pad>, <start> and <unk> are excluded, since they are never sampled: a policy must not gain by
    making them more probable.

    Args:
        unrolled: the decoder's outputs for the captions.
        words: (B, T) their ids.
    """
    rows, layer = unrolled.packing, unrolled.output
    if unrolled.pointed is not None:
        logprob = unrolled.row_logits()
        own = logprob.gather(1, rows.pack(words).unsqueeze(1)).squeeze(1)
        share = logprob[:, list(_NEVER_SAMPLED)].exp().sum(-1).clamp(max=_MAX_EXCLUDED)
        return rows.unpack(own - torch.log1p(-share))
    features, word = unrolled.features.float(), rows.pack(words)
    losses = rows.pack(unrolled.losses(words))
    normaliser = losses + (features * layer.weight[word]).sum(-1) + layer.bias[word]
    never = list(_NEVER_SAMPLED)
    excluded = features @ layer.weight[never].t() + layer.bias[never] - normaliser[:, None]
    share = excluded.exp().sum(-1).clamp(max=_MAX_EXCLUDED)
    return rows.unpack(-losses - torch.log1p(-share))


def caption_reward(
    config: ObjectiveConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> Reward:
    """Return the reward: CIDEr-D (0 to 10) against a training picture's captions, and BLEU.

    Document frequencies come from the training captions. With `reward_end_token` the end counts as
    a word in samples, references and document frequencies, so that a caption gains by ending where
    people end. `bleu_weight` times the smoothed BLEU-4 (0 to 1) is added.
    Whole sentences as words, of languages without spaces, count by their characters.

    Args:
        config: reward_end_token and bleu_weight are read.
        train: its captions are references and give the document frequencies.
        vocabulary: turns sampled ids into words.
    """
    end = [SPECIALS[END]] if config.reward_end_token else []
    references = [
        tuple((*reward_tokens(vocabulary.split(c)), *end) for c in item.captions)
        for item in train.items
    ]
    scorer = CiderD.from_captions(references)

    def reward(item: int, tokens: list[int]) -> float:
        words = reward_tokens([vocabulary.words[t] for t in tokens])
        value = scorer.score(words, references[item])
        if config.bleu_weight > 0:
            value += config.bleu_weight * sentence_bleu(words, references[item])
        return value

    return reward


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
