"""`regard models` and `regard info`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from regard.cli.output import json_line, tables

if TYPE_CHECKING:
    from regard.checkpoint.folder import Checkpoint
    from regard.checkpoint.onnx_manifest import Graphs

_SCORES = {"bleu4": "BLEU-4", "meteor": "METEOR", "cider_d": "CIDEr-D"}


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the models that ship with regard."""
    from regard.pretrained import shipped_models

    records = [_record(name, folder) for name, folder in shipped_models().items()]
    if as_json:
        for record in records:
            json_line(record)
        return
    table = Table("model", "default for", "size", *_SCORES.values())
    for record in records:
        table.add_row(
            record["name"],
            ", ".join(record["default_for"]),
            f"{record['bytes'] / 1e6:.1f} MB",
            *(_shown(record["scores"].get(key)) for key in _SCORES),
        )
    tables().print(table)


def info(
    model: Annotated[
        str | None, typer.Argument(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole config as JSON.")] = False,
    runtime: Annotated[
        bool, typer.Option("--runtime", help="What computes what on this machine, and why.")
    ] = False,
) -> None:
    """Show what a model is made of."""
    if runtime:
        if model is not None:
            raise typer.BadParameter("--runtime describes this machine; leave MODEL out.")
        _show_runtime(as_json)
        return
    from regard.checkpoint.folder import load_checkpoint
    from regard.checkpoint.onnx_manifest import graphs_of
    from regard.pretrained import find_model

    checkpoint = load_checkpoint(find_model(model))
    graphs = graphs_of(checkpoint)
    if as_json:
        words = {"words": len(checkpoint.vocabulary), "tokens": checkpoint.vocabulary.tokens}
        more = {"metrics": checkpoint.metrics, "graphs": asdict(graphs) if graphs else None}
        json_line(checkpoint.config | {"vocabulary": words} | more)
        return
    table = Table(show_header=False, box=None)
    for label, value in _described(checkpoint, graphs).items():
        table.add_row(label, Text(value))  # a stranger's text is no markup
    tables().print(table)


def _show_runtime(as_json: bool) -> None:
    from regard.native import dispatch

    case = dispatch.this_machine()
    rows = list(dispatch.report(case))
    if as_json:
        json_line({"device": str(case.device), "computations": rows})
        return
    table = Table("computation", "used in", "runs as", "why", "not taken", show_lines=True)
    for row in rows:
        others = [f"{name}: {why}" for name, why in row["others"].items()]
        taken = row["implementation"] or "–", row["reason"] or "–"
        table.add_row(row["computation"], row["use"], *taken, "\n".join(others))
    tables().print(table)


def _described(checkpoint: Checkpoint, graphs: Graphs | None) -> dict[str, str]:
    config = checkpoint.config
    encoder, decoder = config["encoder"], config["recipe"].get("decoder", {})
    weights = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    settings = checkpoint.metrics.get("settings", {})
    return {
        "name": config["name"],
        "folder": str(checkpoint.path),
        "medium": config["medium"],
        "encoder": f"{encoder['name']}, {encoder['annotation_dim']} features",
        "grid": "×".join(map(str, encoder["grid_shape"])) + " cells",
        "attention": f"{decoder.get('attention')}, {decoder.get('scores')} scores",
        "vocabulary": f"{len(checkpoint.vocabulary)} {checkpoint.vocabulary.tokens}s",
        "weights": f"{weights / 1e6:.1f} million",
        "runs on": f"onnxruntime ({graphs.precision} encoder) or torch" if graphs else "torch",
        "recipe": str(config["recipe"].get("name")),
        "made by": f"regard {config.get('regard_version')}",
        **{key: _shown(value) for key, value in checkpoint.metrics.get("scores", {}).items()},
        "scored on": ", ".join(f"{key} {value}" for key, value in settings.items()) or "–",
    }


def _record(name: str, folder: Path) -> dict[str, Any]:
    from regard.pretrained import DEFAULTS

    metrics = folder / "metrics.json"
    return {
        "name": name,
        "folder": str(folder),
        "default_for": [medium for medium, default in DEFAULTS.items() if default == name],
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "scores": json.loads(metrics.read_text("utf-8")).get("scores", {})
        if metrics.is_file()
        else {},
    }


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
