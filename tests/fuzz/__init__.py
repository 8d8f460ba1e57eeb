"""Faults, tried and counted: `make torture`, or `python -m tests.fuzz --help`."""
