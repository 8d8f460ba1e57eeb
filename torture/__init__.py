"""Faults, tried and counted: `make torture`, or `python -m torture --help`."""
