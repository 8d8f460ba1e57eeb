"""Kernels: ways to compute what the plain code says, in less memory or time.

Each has the plain computation as its oracle, and a test that holds it to that.
"""

from regard.kernels.additive import additive_scores
from regard.kernels.linear import project
from regard.kernels.plan import Plan, Recurrence, Weights
from regard.kernels.recurrence import unroll
from regard.kernels.vocabulary import word_losses

__all__ = [
    "Plan",
    "Recurrence",
    "Weights",
    "additive_scores",
    "project",
    "unroll",
    "word_losses",
]
