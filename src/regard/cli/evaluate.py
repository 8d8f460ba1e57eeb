"""`regard evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from regard.card import METRIC_LABELS
from regard.cli.files import check_place
from regard.cli.output import complain, reporting
from regard.folders import whole_file

if TYPE_CHECKING:
    from regard.metrics.evaluate import EvaluationResult

_WIDTH_OF_A_FILE = 180  # the table is never cut where the output is no terminal


def evaluate(
    annotations: Annotated[Path, typer.Option(help="Captions, as for `regard data check`.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, clips or scans.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "val",
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 3,
    context: Annotated[
        str, typer.Option(help="Hard attention: expected, sample or argmax.")
    ] = "expected",
    limit: Annotated[int, typer.Option(help="Only the first so many pictures; 0: all.")] = 0,
    tokenizer: Annotated[
        str, typer.Option(help="ptb (Java), python (the same tokens), or auto.")
    ] = "auto",
    present_only: Annotated[
        bool, typer.Option("--present-only", help="Leave out what has captions and no file.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write scores and captions here.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Score one caption per picture of a split, beside the papers' rows."""
    from regard.data import load_dataset
    from regard.media import medium_of
    from regard.metrics.evaluate import evaluate as evaluate_captioner
    from regard.routing import Router

    check_place(json_file, "--json")
    dataset = load_dataset(annotations, images or "", present_only=present_only)
    items = dataset.split(split).items or dataset.items
    medium = medium_of(items[0].file) if items else "image"
    captioner = Router(model, device=device).captioner(medium)
    with reporting() as report:
        result = evaluate_captioner(
            captioner,
            dataset,
            split=split,
            beam=beam,
            context=context,
            limit=limit,
            tokenizer=tokenizer,
            report=lambda done, total: report("captioning", done, total),
        )
    if json_file is not None:
        text = json.dumps(result.to_json(), ensure_ascii=False, indent=1)
        with whole_file(json_file) as new:
            new.write_text(text + "\n", encoding="utf-8")
    _print(result)
    raise typer.Exit(1 if result.failures else 0)


def _print(result: EvaluationResult) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    console.print(_table(result))
    for name, reason in result.scores.missing.items():
        complain(f"no {METRIC_LABELS[name]}: {reason}")
    for key, error in result.failures.items():
        complain(f"{key}: {error} Scored as an empty caption.")


def _table(result: EvaluationResult) -> Table:
    from regard.metrics.published import FLICKR8K

    settings = result.settings
    names = [n for n in METRIC_LABELS if n != "spice" or n in result.scores.values]
    table = Table("", *(METRIC_LABELS[n] for n in names), "conditions", title="scores × 100")
    references = settings["references"]
    if isinstance(references, list):
        references = "–".join(map(str, references))
    conditions = (
        f"{settings['split']} ({settings['pictures']}) · {settings['tokenizer']} · "
        f"beam {settings['beam']} · {references} refs"
        + ("" if settings["context"] == "expected" else f" · {settings['context']} location")
    )
    values = result.scores.values
    table.add_row(settings["model"], *_cells(values, names), conditions, end_section=True)
    for row in FLICKR8K:
        table.add_row(row.name, *_cells(row.scores, names), f"Flickr8k {row.conditions}")
    return table


def _cells(values: dict[str, float], names: list[str]) -> list[str]:
    return [f"{values[name]:.1f}" if name in values else "–" for name in names]
