"""What strangers send and leave behind: planted modules, bombs, odd entries, forged models.

Each case is a function that takes an empty folder and raises if the fault was not handled.
`tests/fuzz/test_strangers.py` runs the same cases one by one.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.tally import Tally

Case = Callable[[Path], None]
TOPICS = (
    "stranger_modules",
    "stranger_secrets",
    "stranger_clients",
    "stranger_media",
    "stranger_entries",
    "stranger_locks",
    "stranger_models",
    "stranger_words",
)
"""Modules of this package: each has `CASES`, a list of functions."""


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    found: dict[str, Case] = {}
    for topic in TOPICS:
        for case in importlib.import_module(f"tests.fuzz.{topic}").CASES:
            found[case.__name__] = case
    return found


def run(scale: float, seed: int, folder: Path) -> Tally:
    """Try every case, or with a scale below 1 a part of them, and count."""
    tally, found = Tally(), list(cases().items())
    if scale < 1:
        found = random.Random(seed).sample(found, max(1, round(len(found) * scale)))
    for name, case in found:
        place = folder / name
        place.mkdir()
        try:
            case(place)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            tally.miss(f"{name}: {type(error).__name__}: {str(error).splitlines()[:1]}")
        else:
            tally.handle()
    tally.figures.append(f"{len(found)} cases of strangers")
    return tally
