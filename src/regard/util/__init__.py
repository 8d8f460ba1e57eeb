"""General helpers for arrays, files, threads and processes."""
