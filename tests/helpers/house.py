"""Budgets of the source tree: how large it is, and how many files one task enters.

`python -m tests.helpers.house` prints a table of budgets and the places that count towards each. It
exits with status 1 if a budget is exceeded. It measures the `regard` that Python would import.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.helpers.house_tasks import source, traced

BUDGETS = {
    "modules": 201,  # 200 for the house, and the lock of folders
    # 21,000 for the house, and 5,000 for what came after: pointing and teaching, CLIP's encoder in
    # 8 bits, and devices; every file and language; what strangers send.
    "code lines": 26_000,
    "loose modules at the top": 5,
    "file names used twice": 0,
    "class names used twice": 0,
    "functions over 60 lines": 0,
    "import circles": 0,
    "imports of explain in types": 0,
    "files a caption enters": 30,
    "modules a caption imports": 45,
    "files a training step enters": 24,
}
"""The largest number allowed, by budget."""

LONGEST_FUNCTION = 60
SMALL_FILE = 100
NOT_LOOSE = {"__init__.py", "__main__.py", "version.py", "errors.py"}
MAY_REPEAT = {"__init__.py", "base.py"}
_ONLY_TYPES = {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class Measure:
    """What was measured for one budget, and the places that make it up."""

    number: int
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Module:
    """One source file, parsed."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@cache
def modules() -> dict[str, Module]:
    """Return all modules of the package by their dotted names."""
    found: dict[str, Module] = {}
    for path in sorted(source().rglob("*.py")):
        parts = path.relative_to(source().parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        text = path.read_text("utf-8")
        found[name] = Module(name, path, text, ast.parse(text))
    return found


# Size


def _docstring_lines(tree: ast.AST) -> set[int]:
    """Return the lines of docstrings, those of attributes among them."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def code_lines(module: Module) -> int:
    """Count the lines that are not blank, a comment or a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type not in _NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - _docstring_lines(module.tree))


@cache
def sizes() -> dict[str, int]:
    """Return the code lines of every module."""
    return {name: code_lines(module) for name, module in modules().items()}


def _code_lines() -> Measure:
    packages: Counter[str] = Counter()
    for name, lines in sizes().items():
        path = modules()[name].path.relative_to(source())
        packages[path.parts[0] if len(path.parts) > 1 else "(top)"] += lines
    return Measure(
        sum(packages.values()), tuple(f"{n:6,} {name}" for name, n in packages.most_common())
    )


def _loose() -> Measure:
    names = sorted(p.name for p in source().glob("*.py") if p.name not in NOT_LOOSE)
    return Measure(len(names), tuple(names))


def _repeated(places: dict[str, list[str]]) -> Measure:
    twice = {name: where for name, where in sorted(places.items()) if len(where) > 1}
    return Measure(len(twice), tuple(f"{name}: {', '.join(w)}" for name, w in twice.items()))


def _file_names() -> Measure:
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules().values():
        if module.path.name not in MAY_REPEAT:
            places[module.path.name].append(str(module.path.relative_to(source()).parent))
    return _repeated(places)


def _class_names() -> Measure:
    """Find repeated class names. A leading underscore does not make a name different."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                name = node.name.lstrip("_")
                places[name].append(f"{module.name}.{node.name}")
    return _repeated(places)


def _function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines from `def` to the end without the docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is None:
        return lines
    first = node.body[0]
    return lines - ((first.end_lineno or first.lineno) - first.lineno + 1)


def _long_functions() -> Measure:
    found: list[str] = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (lines := _function_lines(node)) > LONGEST_FUNCTION:
                    found.append(f"{module.name}.{node.name}: {lines}")
    return Measure(len(found), tuple(found))


# Imports


def _import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield imports at the top and inside functions, not those under TYPE_CHECKING."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and ast.unparse(node.test) in _ONLY_TYPES:
        children = list(node.orelse)
    for child in children:
        yield from _import_nodes(child)


def _targets(module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        above = module.package.split(".")[: 1 - node.level or None]
        base = ".".join([*above, *([base] if base else [])])
    for alias in node.names:
        yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base


@cache
def imports() -> dict[str, set[str]]:
    """Return which modules of the package every module imports."""
    return {
        name: {t for n in _import_nodes(m.tree) for t in _targets(m, n) if t in modules()}
        for name, m in modules().items()
    }


def _reached(start: str) -> set[str]:
    """Return all modules that a module imports, directly or through others."""
    seen: set[str] = set()
    waiting = list(imports()[start])
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += imports()[name]
    return seen


def _circles() -> Measure:
    """Find circles: strongly connected components of the import graph.

    Only the named module counts as imported, not the packages above it. Modules that are named by
    a string, as in the tables of lazy exports, do not count.
    """
    reached = {name: _reached(name) for name in imports()}
    members = {name: {m for m in reached[name] if name in reached[m]} for name in reached}
    circles = {tuple(sorted(circle)) for circle in members.values() if circle}
    places: list[str] = []
    for circle in sorted(circles, key=lambda c: (-len(c), c)):
        places.append(f"{len(circle)} modules: {', '.join(circle)}")
        for name in circle:
            inside = sorted(imports()[name] & set(circle))
            places.append(f"    {name} -> {', '.join(inside)}")
    return Measure(len(circles), tuple(places))


def _explain_in_types() -> Measure:
    found = [
        f"{name} -> {target}"
        for name, targets in imports().items()
        for target in sorted(targets)
        if name.split(".")[1:2] == ["types"] and target.split(".")[1:2] == ["explain"]
    ]
    return Measure(len(found), tuple(found))


# Tasks


def _entered(task: str, what: str = "files") -> Measure:
    found = traced(task)[what]
    return Measure(len(found), tuple(found))


MEASURES: dict[str, Callable[[], Measure]] = {
    "modules": lambda: Measure(len(modules())),
    "code lines": _code_lines,
    "loose modules at the top": _loose,
    "file names used twice": _file_names,
    "class names used twice": _class_names,
    "functions over 60 lines": _long_functions,
    "import circles": _circles,
    "imports of explain in types": _explain_in_types,
    "files a caption enters": lambda: _entered("caption"),
    "modules a caption imports": lambda: _entered("caption", "modules"),
    "files a training step enters": lambda: _entered("step"),
}


def main() -> int:
    """Print the table; return 1 if a budget is exceeded."""
    found = {budget: MEASURES[budget]() for budget in BUDGETS}
    print(f"{'budget':30} {'measured':>8} {'limit':>7}  ok")
    for budget, limit in BUDGETS.items():
        number = found[budget].number
        print(f"{budget:30} {number:8,} {limit:7,}  {'yes' if number <= limit else 'NO'}")
    small = sum(lines < SMALL_FILE for lines in sizes().values()) / len(sizes())
    print(f"{small:.0%} of the files have fewer than {SMALL_FILE} lines of code")
    for budget, measure in found.items():
        if measure.places:
            print("", f"{budget}: {measure.number:,}", *measure.places, sep="\n  ")
    return any(found[budget].number > limit for budget, limit in BUDGETS.items())


if __name__ == "__main__":
    sys.exit(main())
