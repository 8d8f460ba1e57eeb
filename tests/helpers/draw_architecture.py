"""Draws `docs/assets/architecture.svg`: the packages of regard in the order of their imports.

`python -m tests.helpers.draw_architecture` writes it anew. Sizes and arrows come from the source;
the rows come from `tests/test_layout.py`, which checks that no package imports one above its own
row. An arrow is left out if other arrows lead the same way, or if it leads to the bottom row.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tests.helpers.house import imports as module_imports
from tests.helpers.house import modules, sizes
from tests.test_layout import ORDER, RANK

PICTURE = Path(__file__).parents[2] / "docs/assets/architecture.svg"

WIDTH, MARGIN, COLUMN, ROW = 980, 24, 132, 74
BOX_WIDTH, BOX_HEIGHT = 118, 44
PLACES = {
    "cli": 3.1,
    **{"bulk": 0.2, "serve": 1.6},
    "training": 4.6,
    "audit": 2.9,
    "explain": 2.9,
    "faithfulness": 2.9,
    **{"data": 1.7, "metrics": 2.9, "export": 4.05, "synthetic": 5.9},
    **{"model_pool": 0.2, "captioner": 1.4, "pipeline": 2.9},
    **{"reliability": 4.75, "checkpoint": 3.6},
    "decoding": 2.9,
    "backends": 3.4,
    **{"model": 3.4, "pretrained": 0.9},
    **{"media": 3.4, "recipes": 6.1},
}
"""The column of each package, chosen so that few arrows cross; others stand on the left."""
STYLE = """
  .page { fill: #ffffff; } text { fill: #1f2328; } .small { fill: #57606a; font-size: 11px; }
  text { font: 13px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
  .name { font-weight: 600; } .box { fill: #eef3fb; stroke: #5b7db1; stroke-width: 1.2; }
  .torch { fill: #fdeedc; stroke: #b9762a; } .band { fill: #f3f4f6; stroke: none; }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.3; } .late { stroke-dasharray: 5 4; }
  .head { fill: #57606a; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1e2129; } text { fill: #e6e9ef; } .small { fill: #a9b1bd; }
    .box { fill: #24324a; stroke: #7fa3da; } .torch { fill: #46331d; stroke: #d99b52; }
    .band { fill: #282c36; } .arrow { stroke: #a9b1bd; } .head { fill: #a9b1bd; }
  }
"""


Point: TypeAlias = tuple[float, float]
Curve: TypeAlias = tuple[Point, Point, Point, Point]
"""A cubic Bézier curve."""


class Arrow(NamedTuple):
    """An import of one package by another.

    Attributes:
        user: the package that imports.
        used: the package that is imported.
        late: whether every such import is inside a function.
    """

    user: str
    used: str
    late: bool


def package_of(module: str) -> str:
    """Return the package, or the module at the top, that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def _top_level_names(module: str) -> set[str]:
    """Return the names that a module imports when it is loaded."""
    names: set[str] = set()
    for node in modules()[module].tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def needs_torch(package: str) -> bool:
    """Return whether a module of the package imports torch when it is loaded."""
    own = [name for name in modules() if package_of(name) == package]
    return any("torch" in {n.split(".")[0] for n in _top_level_names(name)} for name in own)


def package_imports() -> dict[tuple[str, str], bool]:
    """Return the imports between packages; whether all of each are inside functions."""
    late: dict[tuple[str, str], bool] = {}
    for name, targets in module_imports().items():
        loaded = _top_level_names(name)
        for target in targets:
            pair = package_of(name), package_of(target)
            if pair[0] != pair[1] and all(one in RANK for one in pair):
                late[pair] = late.get(pair, True) and target not in loaded
    return late


def arrows() -> list[Arrow]:
    """Return the imports to draw: the fewest that still lead to all that a package imports."""
    late = package_imports()
    below: dict[str, set[str]] = {name: set() for name in RANK}
    for user, used in late:
        if RANK[used] > 0:
            below[user].add(used)
    for user, used in sorted(late):
        below[user].discard(used)
        if RANK[used] > 0 and used not in _reached(user, below):
            below[user].add(used)
    return [Arrow(a, b, late[a, b]) for a in sorted(below) for b in sorted(below[a])]


def _reached(start: str, below: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(below[start])
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += below[name]
    return seen


# Drawing


def _rows() -> list[list[str]]:
    """Return the names of each row, the highest row first."""
    present = {package_of(name) for name in modules()}
    return [sorted(present & names) for names in reversed(ORDER)]


def _corners() -> dict[str, Point]:
    """Return the upper left corner of every box."""
    places: dict[str, Point] = {}
    for row, names in enumerate(rows := _rows()):
        last = row == len(rows) - 1
        for column, name in enumerate(names):
            x = MARGIN + 8 + COLUMN * (column if last else PLACES.get(name, column))
            places[name] = x, MARGIN + row * ROW + (16 if last else 0)
    return places


def _box(name: str, x: float, y: float) -> str:
    own = [lines for module, lines in sizes().items() if package_of(module) == name]
    about = f"{len(own)} modules, {sum(own):,}" if len(own) > 1 else f"{sum(own):,} lines"
    kind = "box torch" if needs_torch(name) else "box"
    shown = name if len(own) > 1 or modules()[f"regard.{name}"].path.stem != name else f"{name}.py"
    middle = x + BOX_WIDTH / 2
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
        f'rx="6"/><text class="name" x="{middle:g}" y="{y + 18:g}" text-anchor="middle">{shown}'
        f'</text><text class="small" x="{middle:g}" y="{y + 34:g}" text-anchor="middle">{about}'
        "</text>"
    )


def _curves(start: Point, end: Point) -> Iterator[Curve]:
    """Yield the curves that may lead from one box to another, the simplest first."""
    (x, y), (to_x, to_y) = start, end
    half, middle = BOX_WIDTH / 2, to_y + BOX_HEIGHT / 2
    right = to_x > x
    side = to_x - 2 if right else to_x + BOX_WIDTH + 2
    if y == to_y:
        begin = x + BOX_WIDTH if right else x
        yield ((begin, middle), (begin, middle), (side, middle), (side, middle))
        over = y - 30  # above the row
        yield ((x + half, y), (x + half, over), (to_x + half, over), (to_x + half, y - 2))
        return
    bottom, drop = y + BOX_HEIGHT, (to_y - y - BOX_HEIGHT) / 2
    for shift in (1, 0.3, -1):  # arrows of one box leave at different points
        lean = shift * max(-40, min(40, (to_x - x) / 6))
        a, b = x + half + lean, to_x + half - lean
        yield ((a, bottom), (a, bottom + drop), (b, to_y - drop), (b, to_y - 2))
    for lean in (0, 30, -30):  # straight down, then into the side
        a = x + half + lean
        yield ((a, bottom), (a, middle), (a, middle), (side, middle))


def _passes(curve: Curve, boxes: list[Point]) -> bool:
    """Return whether a curve passes behind one of the boxes."""
    for i in range(81):
        t = i / 80
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        x, y = (sum(w * p[axis] for w, p in zip(weights, curve, strict=True)) for axis in (0, 1))
        for left, top in boxes:
            if -5 < x - left < BOX_WIDTH + 5 and -5 < y - top < BOX_HEIGHT + 5:
                return True
    return False


def _path(arrow: Arrow, corners: dict[str, Point]) -> str:
    """Return the first curve of an arrow that passes behind no other box."""
    others = [place for name, place in corners.items() if name not in arrow[:2]]
    curves = list(_curves(corners[arrow.user], corners[arrow.used]))
    curve = next((one for one in curves if not _passes(one, others)), curves[0])
    points = " ".join(f"{x:g} {y:g}" for x, y in curve[1:])
    kind = "arrow late" if arrow.late else "arrow"
    x, y = curve[0]
    return f'<path class="{kind}" d="M{x:g} {y:g} C{points}" marker-end="url(#head)"/>'


def _legend(y: float) -> Iterator[str]:
    x = MARGIN + 8
    yield f'<rect class="box" x="{x}" y="{y}" width="22" height="14" rx="3"/>'
    yield f'<text class="small" x="{x + 30}" y="{y + 11}">loads without torch</text>'
    yield f'<rect class="box torch" x="{x + 160}" y="{y}" width="22" height="14" rx="3"/>'
    yield f'<text class="small" x="{x + 190}" y="{y + 11}">some modules load torch</text>'
    for at, kind, text in ((350, "", "imports"), (470, " late", "imports inside functions only")):
        yield f'<path class="arrow{kind}" d="M{x + at} {y + 7} h34" marker-end="url(#head)"/>'
        yield f'<text class="small" x="{x + at + 44}" y="{y + 11}">{text}</text>'
    yield (
        f'<text class="small" x="{WIDTH - MARGIN}" y="{y + 11}" text-anchor="end">'
        "in each box: modules, lines of code</text>"
    )


def draw() -> str:
    """Return the picture."""
    corners = _corners()
    bottom = max(y for _, y in corners.values())
    height = bottom + BOX_HEIGHT + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        'aria-label="The packages of regard in the order of their imports">',
        f"<style>{STYLE}</style>",
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker>',
        f'<rect class="page" width="{WIDTH}" height="{height:g}" rx="8"/>',
        f'<rect class="band" x="{MARGIN - 8}" y="{bottom - 26:g}" '
        f'width="{WIDTH - 2 * MARGIN + 16}" height="{BOX_HEIGHT + 38}" rx="8"/>',
        f'<text class="small" x="{MARGIN + 8}" y="{bottom - 10:g}">'
        "Foundations: every package above may import these</text>",
    ]
    parts += [_path(arrow, corners) for arrow in arrows()]
    parts += [_box(name, *corners[name]) for name in corners]
    parts += _legend(bottom + BOX_HEIGHT + 34)
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
