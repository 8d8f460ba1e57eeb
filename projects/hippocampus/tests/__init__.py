"""Tests of the hippocampus project."""
