"""The plots of benchmarks/README.md, drawn from results.json by run.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_OURS, _PLAIN = "#1f6f8b", "#c77b30"


def draw_all(kept: dict[str, Any], folder: Path) -> None:
    """Draw throughput over batch, cells, beam and threads, and cost over work."""
    panels = [
        ("batch", series(kept, "train", "batch", "train D=512", "64"), "captions a step"),
        ("cells", series(kept, "train", "cells", "train D=512", "196"), "cells"),
        ("threads", series(kept, "train", "threads", "train D=512", None), "threads"),
    ]
    draw(panels, "training, captions/s", folder / "training.png")
    panels = [
        ("batch", series(kept, "decode", "batch", "decode beam=3", "64"), "pictures a batch"),
        ("cells", series(kept, "decode", "cells", "decode beam=3", "196"), "cells"),
        ("beam", beams(kept), "beam"),
        ("threads", series(kept, "decode", "threads", "decode beam=3", None), "threads"),
    ]
    draw(panels, "decoding, captions/s", folder / "decoding.png")
    cost(kept, folder / "cost.png")


Point = tuple[float, float, float | None]


def series(kept: dict[str, Any], command: str, axis: str, base: str, at: str | None) -> list[Point]:
    """Return (value, captions/s, plain's captions/s) of a sweep and its base point."""
    points: list[Point] = []
    for name, record in kept.items():
        found = re.fullmatch(rf"{command} {axis}=(\d+)", name)
        if found:
            points.append(point(float(found[1]), record))
    if base in kept:
        value = float(at) if at else float(kept[base]["settings"]["threads"])
        points.append(point(value, kept[base]))
    return sorted(points)


def beams(kept: dict[str, Any]) -> list[Point]:
    names = {"decode greedy": 1, "decode beam=3": 3, "decode beam=5": 5, "decode beam=10": 10}
    return [point(float(beam), kept[name]) for name, beam in names.items() if name in kept]


def point(value: float, record: dict[str, Any]) -> Point:
    return value, record["captions_per_s"], record.get("plain_captions_per_s")


def draw(panels: list[tuple[str, list[Point], str]], label: str, path: Path) -> None:
    figure = Figure(figsize=(3.0 * len(panels), 2.8), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for place, (title, points, unit) in zip(axes, panels, strict=True):
        for column, colour, name in ((1, _OURS, "regard"), (2, _PLAIN, "plain PyTorch")):
            drawn = [(p[0], p[column]) for p in points if p[column] is not None]
            if drawn:
                place.plot(*zip(*drawn, strict=True), "o-", color=colour, label=name, ms=4)
        place.set_title(title, fontsize=10)
        place.set_xlabel(unit)
        place.set_ylim(bottom=0)
        place.grid(alpha=0.3)
    axes[0].set_ylabel(label)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=80)


def cost(kept: dict[str, Any], path: Path) -> None:
    """Draw seconds a caption over useful operations a caption, of all training measurements."""
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for colour, name, key in ((_OURS, "regard", "captions_per_s"),
                              (_PLAIN, "plain PyTorch", "plain_captions_per_s")):  # fmt: skip
        drawn = sorted(
            (record["gflop_per_caption"], 1000 / record[key])
            for record in kept.values()
            if record["benchmark"] == "train" and record.get(key)
        )
        if drawn:
            axes.plot(*zip(*drawn, strict=True), "o", color=colour, label=name, ms=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("useful GFLOP a caption")
    axes.set_ylabel("ms a caption (training)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=80)
