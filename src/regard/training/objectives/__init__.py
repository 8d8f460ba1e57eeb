"""Training objectives, by their names in recipes."""

from regard.config import Recipe
from regard.data.dataset import CaptionDataset
from regard.text.vocabulary import Vocabulary
from regard.training.objectives.base import Objective
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.objectives.reinforce import HardAttentionObjective
from regard.training.objectives.self_critical import SelfCritical, caption_reward


def build_objective(recipe: Recipe, train: CaptionDataset, vocabulary: Vocabulary) -> Objective:
    """Build the objective that `objective.kind` names.

    Args:
        recipe: the experiment.
        train: the captions for the reward of self-critical training.
        vocabulary: turns sampled ids into words for that reward.
    """
    config = recipe.objective
    if config.kind == "hard_attention":
        return HardAttentionObjective(config)
    if config.kind == "self_critical":
        reward = caption_reward(config, train, vocabulary)
        return SelfCritical(config, reward, recipe.data.max_length)
    return CrossEntropy(config)
