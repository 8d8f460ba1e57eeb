"""From a recipe to its objective."""

from __future__ import annotations

from regard.config import ObjectiveConfig, Recipe
from regard.data.dataset import CaptionDataset
from regard.metrics.cider import CiderD, sentence_bleu
from regard.text.vocabulary import END, SPECIALS, Vocabulary
from regard.training.objectives.base import Objective
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.objectives.reinforce import HardAttentionObjective
from regard.training.objectives.self_critical import Reward, SelfCritical


def build_objective(recipe: Recipe, train: CaptionDataset, vocabulary: Vocabulary) -> Objective:
    """Build the objective that `objective.kind` names.

    Args:
        recipe: the experiment.
        train: whose captions give CIDEr-D its document frequencies and references.
        vocabulary: turns sampled ids into words.
    """
    config = recipe.objective
    if config.kind == "hard_attention":
        return HardAttentionObjective(config)
    if config.kind == "self_critical":
        reward = caption_reward(config, train, vocabulary)
        return SelfCritical(config, reward, recipe.data.max_length)
    return CrossEntropy(config)


def caption_reward(
    config: ObjectiveConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> Reward:
    """Return CIDEr-D (0 to 10) against a training picture's own captions, and perhaps BLEU.

    Document frequencies come from the training captions, as the user's data has them. With
    `reward_end_token` the end counts as a word of the sampled captions, the references and the
    document frequencies alike, so that a caption gains by ending where people end. To it is added
    `bleu_weight` times the smoothed BLEU-4, which is 0 to 1.
    """
    end = [SPECIALS[END]] if config.reward_end_token else []
    references = [
        tuple((*vocabulary.split(c), *end) for c in item.captions) for item in train.items
    ]
    scorer = CiderD.from_captions(references)

    def reward(item: int, tokens: list[int]) -> float:
        words = [vocabulary.words[t] for t in tokens]
        value = scorer.score(words, references[item])
        if config.bleu_weight > 0:
            value += config.bleu_weight * sentence_bleu(words, references[item])
        return value

    return reward
