"""Tests of the recipe of `everyday`."""
