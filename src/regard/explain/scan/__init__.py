"""Drawings of what was attended to in a scan."""
