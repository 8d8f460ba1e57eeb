"""Checkpoints: folders that hold everything that a captioner needs."""
