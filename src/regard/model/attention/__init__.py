"""Attention: scores, soft and hard contexts, the gate."""

from regard.model.attention.gate import Gate
from regard.model.attention.hard import HardAttention
from regard.model.attention.scores import AdditiveScores, DotScores, Scores, build_scores
from regard.model.attention.soft import Attended, Attention, SoftAttention

__all__ = [
    "AdditiveScores",
    "Attended",
    "Attention",
    "DotScores",
    "Gate",
    "HardAttention",
    "Scores",
    "SoftAttention",
    "build_scores",
]
