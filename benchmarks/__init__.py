"""Benchmarks: what regard takes in time and memory, beside two other ways to do the same.

`textbook` is written straight from the papers' equations and is also the oracle of the tests of
equivalence; `plain` is what a careful PyTorch user writes.
"""

from benchmarks.report import Report

__all__ = ["Report"]
