"""Drawings of a scan's attention."""
