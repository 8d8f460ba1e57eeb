"""Loops in C++ for the CPU, on arrays of numpy or torch; neither the one needs the other.

`library` compiles them; `Product` multiplies with a packed weight; `FastStep` is the decoder's step
in them, which both backends run.
"""

from regard.native.cpp_library import Library, is_built, library
from regard.native.cpp_step import FastStep, ReadyAnnotations, StepWeights
from regard.native.packed_product import ALIGNED, Product

__all__ = [
    "ALIGNED",
    "FastStep",
    "Library",
    "Product",
    "ReadyAnnotations",
    "StepWeights",
    "is_built",
    "library",
]
