"""Kernels: ways to compute what the attention's plain code says, in less memory or time.

Each has the plain computation as its oracle, and a test that holds it to that.
"""

from regard.kernels.additive import additive_scores

__all__ = ["additive_scores"]
