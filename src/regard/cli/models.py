"""`regard models` and `regard info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the models that ship with regard."""
    from regard.pretrained import DEFAULTS, shipped_models

    table = Table("model", "default for", "size", "BLEU-4", "CIDEr-D")
    for name, folder in shipped_models().items():
        scores = _metrics(folder).get("scores", {})
        size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
        media = ", ".join(m for m, n in DEFAULTS.items() if n == name)
        if as_json:
            record = {"name": name, "folder": str(folder), "default_for": media, "scores": scores}
            typer.echo(json.dumps(record))
            continue
        table.add_row(
            name, media, f"{size:.0f} MB", *(_shown(scores.get(k)) for k in ("bleu4", "cider_d"))
        )
    if not as_json:
        Console().print(table)


def info(
    model: Annotated[str, typer.Argument(help="Folder, shipped model or hub id.")],
    as_json: Annotated[bool, typer.Option("--json", help="The whole config as JSON.")] = False,
) -> None:
    """Show what a model is made of."""
    from regard.checkpoint import load_checkpoint
    from regard.pretrained import find_model

    checkpoint = load_checkpoint(find_model(model))
    if as_json:
        typer.echo(json.dumps(checkpoint.config | {"metrics": checkpoint.metrics}))
        return
    config = checkpoint.config
    encoder, decoder = config["encoder"], config["recipe"]["decoder"]
    rows, cols = encoder["grid_shape"]
    table = Table(show_header=False, box=None)
    for label, value in (
        ("name", config["name"]),
        ("folder", checkpoint.path),
        ("medium", config["medium"]),
        ("encoder", f"{encoder['name']}, {encoder['annotation_dim']} features"),
        ("grid", f"{rows}×{cols} cells"),
        ("attention", f"{decoder['attention']}, {decoder['scores']} scores"),
        ("vocabulary", f"{len(checkpoint.vocabulary)} {checkpoint.vocabulary.tokens}s"),
        ("weights", f"{sum(w.numel() for w in checkpoint.weights.values()) / 1e6:.1f} million"),
        ("made by", f"regard {config['regard_version']}"),
        *((k, _shown(v)) for k, v in checkpoint.metrics.get("scores", {}).items()),
    ):
        table.add_row(label, str(value))
    Console().print(table)


def _metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
