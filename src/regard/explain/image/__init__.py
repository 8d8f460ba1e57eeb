"""Drawings of a picture's attention."""
