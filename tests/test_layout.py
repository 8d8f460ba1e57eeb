"""The order of imports, the public names, and what library code must not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import regard

SOURCE = Path(regard.__file__).parent
ORDER = [
    {"types", "errors", "config", "vocabulary", "version"},
    {"media", "recipes"},
    {"encoders", "attention", "kernels", "pretrained", "card"},
    {"decoder"},
    {"backends"},
    {"decoding"},
    {"checkpoint"},
    {"captioner"},
    {"data", "metrics"},
    {"explain"},
    {"training"},
    {"serve", "bulk", "cli"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
MODULES = sorted(p for p in SOURCE.rglob("*.py") if p.name not in ("__main__.py",))


def station(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Stations that a module imports when it is imported, or inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("regard."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("regard.")}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_imports_to_its_right(path: Path) -> None:
    own = station(path)
    if own == "__init__":
        return
    allowed = {"explain"} if own == "types" else set()  # Caption.figure and _repr_html_
    for name in imported(path) - allowed:
        assert RANK[name] <= RANK[own], f"{path.name} ({own}) imports regard.{name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_library_code_neither_prints_nor_exits(path: Path) -> None:
    if station(path) == "cli":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "sys.exit", "torch.manual_seed") or (
                called == "torch.manual_seed" and "fork_rng" in path.read_text("utf-8")
            ), f"{path}: {called}"


def test_public_names() -> None:
    assert set(regard.__all__) <= {*dir(regard), *regard._LAZY}
    for name in regard.__all__:
        assert getattr(regard, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = regard.nothing


def test_importing_regard_and_the_version_do_not_wait_for_torch() -> None:
    code = "import sys, regard.cli.main, regard.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
