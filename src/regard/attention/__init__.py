"""Attention: scores, soft and hard contexts, the gate."""

from regard.attention.gate import Gate
from regard.attention.hard import HardAttention
from regard.attention.scores import AdditiveScores, DotScores, Scores, build_scores
from regard.attention.soft import Attended, Attention, SoftAttention

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
