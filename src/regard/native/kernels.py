"""Kernels: ways to compute what the plain code says, in less memory or time.

Each has the plain computation as its oracle, and a test that holds it to that.
"""

from regard.native.additive import additive_scores
from regard.native.products import project
from regard.native.teacher_forcing import Plan, Recurrence, Weights, unroll
from regard.native.vocabulary_loss import word_losses

__all__ = [
    "Plan",
    "Recurrence",
    "Weights",
    "additive_scores",
    "project",
    "unroll",
    "word_losses",
]
