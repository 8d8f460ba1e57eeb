"""The budgets of the source tree hold: its size, its names, and the files that one task enters."""

import ast
from pathlib import Path

import pytest

from tests.helpers import house


@pytest.mark.parametrize("budget", house.BUDGETS)
def test_budget(budget: str) -> None:
    measure = house.MEASURES[budget]()
    limit = house.BUDGETS[budget]
    places = "\n  ".join(measure.places)
    assert measure.number <= limit, f"{budget}: {measure.number}, at most {limit}\n  {places}"


def test_what_counts_as_code_and_as_an_import(tmp_path: Path) -> None:
    text = '''"""Docstring
of two lines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regard.explain
# comment
LIMIT = 1
"""Docstring of an attribute."""


def read() -> str:
    """One line."""
    import regard.types

    return """text
    # of two lines"""
'''
    module = house.Module("regard.some", tmp_path / "some.py", text, ast.parse(text))
    assert house.code_lines(module) == 8
    nodes = house._import_nodes(module.tree)
    names = [target for node in nodes for target in house._targets(module, node)]
    assert names == ["typing", "regard.types"]
    function = module.tree.body[-1]
    assert isinstance(function, ast.FunctionDef)
    assert house._function_lines(function) == 5
