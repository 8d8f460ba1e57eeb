"""Checkpoints: folders that hold everything a captioner is made of."""
