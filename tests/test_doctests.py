"""The examples in docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path

import regard

SOURCE = Path(regard.__file__).parent
NEED_TRITON = "triton_"  # modules that cannot be imported without it


def names() -> list[str]:
    paths = sorted(SOURCE.rglob("*.py"))
    kept = [p for p in paths if p.name != "__main__.py" and not p.name.startswith(NEED_TRITON)]
    parts = [(*p.relative_to(SOURCE).with_suffix("").parts,) for p in kept]
    return [".".join(("regard", *found)).removesuffix(".__init__") for found in parts]


def test_examples_in_docstrings() -> None:
    attempted, failed = 0, []
    for name in names():
        result = doctest.testmod(importlib.import_module(name))
        attempted += result.attempted
        failed += [name] * result.failed
    assert not failed
    assert attempted >= 20, "examples were lost"
