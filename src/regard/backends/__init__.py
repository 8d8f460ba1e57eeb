"""Backends: who runs the encoder and the decoder's step."""

from regard.backends.base import Backend

__all__ = ["Backend"]
