"""Captions for hippocampus MRI scans: a complete research example on the public API."""
