"""The project uses documented modules of regard only, as a project of a user's own would."""

from __future__ import annotations

import ast
from pathlib import Path

PUBLIC = {
    *("regard", "regard.config.io", "regard.data", "regard.errors", "regard.media"),
    *("regard.metrics", "regard.model.encoders", "regard.recipes", "regard.types"),
}


def test_only_documented_modules_are_imported() -> None:
    found: set[str] = set()
    for path in Path(__file__).parents[1].glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    used = {name for name in found if name.split(".")[0] == "regard"}
    assert "regard" in used
    assert used <= PUBLIC
