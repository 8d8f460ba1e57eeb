"""Fixtures of this folder."""

from tests.helpers.encoding import encode_with_torch

__all__ = ["encode_with_torch"]
