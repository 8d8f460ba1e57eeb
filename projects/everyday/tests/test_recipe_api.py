"""The recipe uses public modules of regard only, as a project of a user's own would."""

from __future__ import annotations

import ast
from pathlib import Path

PUBLIC = {
    *("regard", "regard.config", "regard.data", "regard.decoding", "regard.media"),
    *("regard.backends.torch_backend", "regard.metrics", "regard.model.decoder"),
    *("regard.model.encoders", "regard.model.pointer", "regard.text.vocabulary"),
    *("regard.text.words", "regard.types"),
    # Of the small encoder, and of self-critical steps.
    *("regard.model.encoders.efficientnet_lite", "regard.metrics.cider", "regard.model.rng"),
    *("regard.model.unroll", "regard.training.objectives.self_critical"),
}


def test_only_public_modules_are_imported_and_no_private_names() -> None:
    found: set[str] = set()
    for path in Path(__file__).parents[1].glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
                assert not any(alias.name.startswith("_") for alias in node.names), path
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    used = {name for name in found if name.split(".")[0] == "regard"}
    assert "regard" in used
    assert used <= PUBLIC
