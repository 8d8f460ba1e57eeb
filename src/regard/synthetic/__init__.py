"""Synthetic scenes, clips and volumes whose captions and places are known."""
