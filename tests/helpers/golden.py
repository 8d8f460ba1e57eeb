"""The golden record: what regard makes today, as digests, to be compared after a change.

    python -m tests.helpers.golden --out before.json
    python -m tests.helpers.golden --out after.json
    python -m tests.helpers.golden --compare before.json after.json

A record is only comparable with another of the same machine and packages: floats count to the
last bit. A section that fails is recorded with its error, and the others go on. Comparing prints
one line for each difference; the status is then 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SECTIONS = {
    "captions": "tests.helpers.golden_captions:captions",
    "training": "tests.helpers.golden_training:training",
    "explain": "tests.helpers.golden_commands:explain",
    "help": "tests.helpers.golden_commands:interfaces",
    "checkpoint": "tests.helpers.golden_training:checkpoint",
}
"""Every section and its function, which is given an empty folder to work in.

They are imported when they are run, once the environment is settled.
"""
_SETTLED = {
    "OMP_NUM_THREADS": "1",  # the order of sums depends on the number of threads
    "COLUMNS": "100",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
    "SOURCE_DATE_EPOCH": "1700000000",
}
_UNSET = ("REGARD_KERNELS", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TERMINAL_WIDTH")
_PACKAGES = ("numpy", "torch", "onnxruntime", "pillow", "matplotlib", "av", "typer", "rich")
_SHOWN = 120  # characters of a value in a line of differences


def record(sections: list[str]) -> dict[str, Any]:
    """Return the record of some sections, with the machine and the seconds that each took."""
    found: dict[str, Any] = {"machine": _machine(), "seconds": {}}
    for name in sections:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="golden-") as folder:
            found[name] = _section(name, Path(folder).resolve())
        found["seconds"][name] = round(time.monotonic() - began, 1)
        print(f"{name}: {found['seconds'][name]} s", file=sys.stderr)
    return found


def _section(name: str, folder: Path) -> Any:
    module, function = SECTIONS[name].split(":")
    before = Path.cwd()
    try:
        work = getattr(importlib.import_module(module), function)
        os.chdir(folder)  # names in what is recorded are relative
        return work(folder)
    except Exception as error:  # whatever it is: the other sections still have something to say
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        os.chdir(before)


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"python": platform.python_version(), "cores": cores}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield a line for everything that two values, nested to any depth, differ in."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            inner = f"{path}/{key}" if path else str(key)
            if key not in other:
                yield f"{inner}: only in the first: {_short(one[key])}"
            elif key not in one:
                yield f"{inner}: only in the second: {_short(other[key])}"
            else:
                yield from differences(one[key], other[key], inner)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}[{place}]")
    elif isinstance(one, str) and isinstance(other, str) and "\n" in one + other:
        yield from _lines(one.splitlines(), other.splitlines(), path)
    elif one != other or type(one) is not type(other):
        yield f"{path}: {_short(one)} != {_short(other)}"


def _lines(one: list[str], other: list[str], path: str) -> Iterator[str]:
    """Yield the first line in which two texts differ."""
    if one == other:
        return
    common = min(len(one), len(other))
    place = next((i for i in range(common) if one[i] != other[i]), common)
    pair = (_short(text[place]) if place < len(text) else "(the end)" for text in (one, other))
    yield f"{path}: line {place + 1}: " + " != ".join(pair)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def compare(one: Path, other: Path, sections: list[str]) -> list[str]:
    """Return what two records differ in; of other machines or packages that is said as well."""
    pair = [json.loads(path.read_text("utf-8")) for path in (one, other)]
    for line in differences(*(held.get("machine", {}) for held in pair), "machine"):
        print(f"not comparable: {line}", file=sys.stderr)
    kept = [{name: held[name] for name in sections if name in held} for held in pair]
    return list(differences(*kept))


def main(arguments: list[str] | None = None) -> int:
    """Record or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="golden", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="record everything into this file")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"))
    parser.add_argument("--only", choices=SECTIONS, action="append", help="may be repeated")
    given = parser.parse_args(arguments)
    sections = given.only or list(SECTIONS)
    if given.compare:
        found = compare(*given.compare, sections)
        print("\n".join([*found, f"{len(found)} differences"]))
        return 1 if found else 0
    if not given.out:
        parser.error("name --out FILE or --compare A B")
    os.environ.update(_SETTLED)
    for name in _UNSET:
        os.environ.pop(name, None)
    made = record(sections)
    given.out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", "utf-8")
    failed = list(_errors(made, ""))
    print("\n".join([*failed, f"{given.out}: {len(failed)} errors"]), file=sys.stderr)
    return 1 if failed else 0


def _errors(value: Any, path: str) -> Iterator[str]:
    """Yield where an error was recorded, and which."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "error" and isinstance(inner, str):
                yield f"{path}: {inner}"
            yield from _errors(inner, f"{path}/{key}" if path else str(key))


if __name__ == "__main__":
    sys.exit(main())
