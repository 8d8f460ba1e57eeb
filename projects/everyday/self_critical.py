"""Stage 3: self-critical steps, which teach the decoder not to name what is not there.

Captions of photographs are sampled; the reward of each is its CIDEr-D, with the end as a word, less
a penalty for every concept that none of the picture's captions supports. The mean reward of the
picture's other samples is subtracted (`regard.training.objectives.self_critical`). Cross-entropy of
the other batch is added, so that what only textbooks and pseudo-pictures show is not forgotten. The
weights that are kept lie between the first and the last ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from projects.everyday.concept_words import ConceptWords
from projects.everyday.mix import LONGEST, Captioned, Mix
from projects.everyday.train import batch_loss, project
from regard import ConfigError
from regard.metrics.cider import CiderD
from regard.model.decoder import AttentionDecoder
from regard.model.rng import spawn
from regard.model.unroll import pack_captions
from regard.text.vocabulary import END, PAD, SPECIALS, START, Vocabulary
from regard.training.objectives.self_critical import policy_loss, sample_captions, sampled_logprob

STEPS, LEARNING_RATE, SAMPLES = 80, 3e-5, 5
_UNSUPPORTED = 0.5  # of CIDEr-D, for a concept that no reference names
_OTHERS_WEIGHT = 0.6
_CLIP_NORM = 1.0
_SHARE = 0.75  # of the last weights in what is kept, the rest is of the first
_END = SPECIALS[END]


@dataclass(frozen=True)
class Reward:
    """CIDEr-D (0 to 10), less a penalty for unsupported concepts.

    Attributes:
        scorer: with the document frequencies of the training captions.
        words: the concepts.
        penalty: of each concept that no reference names.
    """

    scorer: CiderD
    words: ConceptWords
    penalty: float = _UNSUPPORTED

    @classmethod
    def of(cls, pictures: Sequence[Captioned], words: ConceptWords) -> Reward:
        """Return the reward whose document frequencies are those of the pictures' captions."""
        references = [tuple((*text, _END) for text in picture.captions) for picture in pictures]
        return cls(CiderD.from_captions(references), words)

    def __call__(self, caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Return the reward of a caption, whose last word may be the end.

        Args:
            caption: tokens.
            references: tokens of each, without the end.
        """
        ended = [(*text, _END) for text in references]
        supported = {concept for text in references for concept in self.words.named(text)}
        said = set(self.words.named([word for word in caption if word != _END]))
        return self.scorer.score(caption, ended) - self.penalty * len(said - supported)


def refine(
    decoder: AttentionDecoder,
    mix: Mix,
    vocabulary: Vocabulary,
    reward: Reward,
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    bf16: bool = True,
    seed: int = 0,
) -> Iterator[tuple[float, float]]:
    """Train a decoder in place by sampled captions, with AdamW at a constant rate.

    Args:
        decoder: trained by cross-entropy.
        mix: draws the batches.
        vocabulary: the words.
        reward: of a sampled caption.
        steps: of two passes each.
        learning_rate: of all weights but the bank's.
        bf16: compute the products of the cross-entropy in bfloat16.
        seed: seed of all draws.

    Yields:
        The mean reward of the samples and the cross-entropy of the other batch, of each step.
    """
    assert decoder.pointer is not None
    first = {name: value.clone() for name, value in decoder.state_dict().items()}
    weights = [p for p in decoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, learning_rate, weight_decay=0.0)
    generator, places = torch.Generator().manual_seed(seed), decoder.pointer.place_of()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        batch = mix.described()
        each = len(batch.captions) // len(batch.cells.vectors)
        references = [batch.captions[at : at + each] for at in range(0, len(batch.captions), each)]
        decoder.eval()  # no word is hidden, and log p is that of the sampled policy
        projected = project(decoder, batch.cells)
        tokens = sample_captions(decoder, projected, SAMPLES, spawn(generator), LONGEST)
        rewards = _rewards(tokens, references, vocabulary, reward)
        grouped = rewards.view(-1, SAMPLES)
        baseline = ((grouped.sum(1, keepdim=True) - grouped) / (SAMPLES - 1)).flatten()
        read = torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], 1)
        unrolled = decoder(read, projected, steps=pack_captions(tokens != PAD))
        logprob = sampled_logprob(unrolled, tokens).sum(1)
        policy_loss(rewards, baseline, logprob).backward()
        decoder.train()
        other = batch_loss(decoder, mix.others(), vocabulary, places, generator, bf16=bf16)
        (_OTHERS_WEIGHT * other).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(weights, _CLIP_NORM))
        if not math.isfinite(norm):
            raise ConfigError(f"the gradient of step {step + 1} is not finite. Lower the rate.")
        optimizer.step()
        yield float(rewards.detach().mean()), float(other.detach())
    with torch.no_grad():
        for name, value in decoder.state_dict().items():
            if value.is_floating_point():
                value.lerp_(first[name], 1 - _SHARE)
    decoder.eval()


def _rewards(
    tokens: Tensor,
    references: Sequence[Sequence[Sequence[str]]],
    vocabulary: Vocabulary,
    reward: Reward,
) -> Tensor:
    """Return the rewards (B,) of sampled captions (B, T); those of a picture are consecutive."""
    return torch.tensor(
        [
            reward([vocabulary.words[t] for t in row if t != PAD], references[i // SAMPLES])
            for i, row in enumerate(tokens.tolist())
        ]
    )
