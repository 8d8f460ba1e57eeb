"""Drawings of a clip's attention."""
