"""Captions for hippocampus MRI scans: a whole research example on the public API."""
