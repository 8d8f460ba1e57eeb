"""Fault injection: `make torture`, or `python -m tests.fuzz --help`; docs/faults.md explains it."""
