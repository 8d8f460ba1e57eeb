"""Helpers for arrays, files, threads and processes that know nothing of captions."""
