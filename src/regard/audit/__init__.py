"""Audits: the mistakes a model makes on a split, as reports and files."""
