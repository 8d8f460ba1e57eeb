"""`regard models`, `regard info` and `regard export`: models, their contents, their graphs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from regard.cli import options
from regard.cli.options import argument, option
from regard.cli.output import complain, json_line, print_table, say

if TYPE_CHECKING:
    from regard.checkpoint.components import OnnxManifest
    from regard.checkpoint.folder import Checkpoint

_SCORES = {"bleu4": "BLEU-4", "meteor": "METEOR", "cider_d": "CIDEr-D"}


def models(as_json: options.JsonLines = False) -> None:
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
            *(_score(record["scores"].get(key)) for key in _SCORES),
        )
    print_table(table)


def _record(name: str, folder: Path) -> dict[str, Any]:
    from regard.pretrained import DEFAULTS

    metrics = folder / "metrics.json"
    scored = json.loads(metrics.read_text("utf-8")) if metrics.is_file() else {}
    return {
        "name": name,
        "folder": str(folder),
        "default_for": [medium for medium, default in DEFAULTS.items() if default == name],
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "scores": scored.get("scores", {}),
    }


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def info(
    model: Annotated[
        str | None, argument("Folder, shipped model or hub id; by default the shipped model.")
    ] = None,
    as_json: Annotated[bool, option("Print the whole config as JSON.", "--json")] = False,
    runtime: Annotated[
        bool, option("Show the implementation of each computation on this machine.", "--runtime")
    ] = False,
) -> None:
    """Show the parts and the settings of a model."""
    if runtime:
        if model is not None:
            raise typer.BadParameter("--runtime describes this machine; leave MODEL out.")
        _show_runtime(as_json)
        return
    from regard.checkpoint.components import read_manifest
    from regard.checkpoint.folder import load_checkpoint
    from regard.pretrained import find_model

    checkpoint = load_checkpoint(find_model(model))
    graphs = read_manifest(checkpoint)
    if as_json:
        words = {"words": len(checkpoint.vocabulary), "tokens": checkpoint.vocabulary.tokens}
        more = {"metrics": checkpoint.metrics, "graphs": asdict(graphs) if graphs else None}
        json_line(checkpoint.config | {"vocabulary": words} | more)
        return
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")  # a path is of no use without its end
    for label, value in _described(checkpoint, graphs).items():
        table.add_row(label, Text(value))  # Text, so that a name is not read as markup
    print_table(table)


def _described(checkpoint: Checkpoint, graphs: OnnxManifest | None) -> dict[str, str]:
    config = checkpoint.config
    encoder, decoder = config["encoder"], config["recipe"].get("decoder", {})
    weights = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    settings = checkpoint.metrics.get("settings", {})
    own = f", the encoder's in {checkpoint.encoder_file}" if checkpoint.encoder_file else ""
    return {
        "name": config["name"],
        "folder": str(checkpoint.path),
        "medium": config["medium"],
        "encoder": f"{encoder['name']}, {encoder['annotation_dim']} features",
        "grid": "×".join(map(str, encoder["grid_shape"])) + " cells",
        "attention": f"{decoder.get('attention')}, {decoder.get('scores')} scores",
        "vocabulary": f"{len(checkpoint.vocabulary)} {checkpoint.vocabulary.tokens}s",
        "weights": f"{weights / 1e6:.1f} million{own}",
        "runs on": f"onnxruntime ({graphs.precision} encoder) or torch" if graphs else "torch",
        "recipe": str(config["recipe"].get("name")),
        "made by": f"regard {config.get('regard_version')}",
        **{key: _score(value) for key, value in checkpoint.metrics.get("scores", {}).items()},
        "scored on": ", ".join(f"{key} {value}" for key, value in settings.items()) or "–",
    }


def export(
    model: Annotated[str, argument("Folder, shipped model or hub id.")],
    to: Annotated[str, option("The format: onnx.")] = "onnx",
    out: Annotated[Path | None, option("Folder for a copy; by default the model's own.")] = None,
    int8: Annotated[bool, option("8-bit encoder; needs --calibrate.", "--int8")] = False,
    calibrate: Annotated[Path | None, option("Folder of typical pictures, for --int8.")] = None,
) -> None:
    """Export a trained model to ONNX: it then captions and explains without torch.

    Writes the graphs of encoder and decoder beside the model's weights, which they point into.
    """
    from regard.errors import needs_torch
    from regard.media.find import find_files
    from regard.pretrained import find_model

    with needs_torch("exporting a model"):
        from regard.export import export_model
    examples = list(find_files([str(calibrate)], report=complain)) if calibrate else []
    folder = export_model(
        find_model(model), to=to, out=out, int8=int8, examples=examples, report=complain
    )
    say(folder)


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
    print_table(table)
