"""Benchmarks: time and memory of regard and of two other implementations of the same work.

`textbook` is written straight from the papers' equations and is also the oracle of the tests of
equivalence; `plain` is what a careful PyTorch user writes. `python -m benchmarks --help` lists the
commands; README.md explains what they measure.
"""
