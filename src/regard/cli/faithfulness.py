"""`regard faithfulness`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from regard.cli.files import check_record
from regard.cli.output import complain, reporting, tables
from regard.util.atomic import whole_file

if TYPE_CHECKING:
    from regard.faithfulness.experiments import Faithfulness

_RECORDED = frozenset({"settings", "deletion", "insertion", "agreement"})  # in every record


def faithfulness(
    annotations: Annotated[
        Path, typer.Option(help="Karpathy JSON, COCO JSON, Flickr8k token file, CSV or JSONL.")
    ],
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="A model trained by the recipe uniform-control.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "val",
    regions: Annotated[
        Path | None, typer.Option(help="objects.json, COCO boxes, or a CSV of file,word,mask.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Pictures that are captioned; 0: all.")] = 0,
    probed: Annotated[int, typer.Option(help="Pictures whose cells are covered.")] = 50,
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 3,
    cover: Annotated[str, typer.Option(help="Covered cells show: mean or blur.")] = "mean",
    seed: Annotated[int, typer.Option(help="Of random orders and permutations.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers here.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Measure whether attention is worth its name: mattering, agreement, swaps, pointing.

    A file that fails is scored as an empty caption and is a line on standard error; the status
    is then 1.
    """
    from regard import load
    from regard.data import load_dataset
    from regard.data.regions import load_regions
    from regard.faithfulness.experiments import check_control, control_scores
    from regard.faithfulness.experiments import faithfulness as measure

    check_record(json_file, "--json", _RECORDED, [annotations, regions])
    dataset = load_dataset(annotations, images or "")
    places = load_regions(regions) if regions else None
    captioner = load(model, medium=dataset.medium, device=device)
    rival = load(control, medium=dataset.medium, device=device) if control else None
    if rival is not None:
        check_control(rival)  # now, not after an hour of captioning
    with reporting() as report:
        found = measure(captioner, dataset, split=split, limit=limit, probed=probed, beam=beam,
                        cover=cover, regions=places, seed=seed, report=report)  # fmt: skip
        record = found.to_json()
        if rival is not None:
            record["control"] = control_scores(
                rival, dataset, split=split, limit=limit, beam=beam, report=report
            )
    if json_file is not None:
        with whole_file(json_file) as new:
            new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _print(found, record.get("control"))
    failures = record.get("control", {}).get("failures", {}) | found.failures
    for key, reason in failures.items():
        complain(f"{key}: {reason} Scored as an empty caption.")
    raise typer.Exit(1 if failures else 0)


def _print(found: Faithfulness, control: dict[str, Any] | None) -> None:
    console, settings = tables(), found.settings
    console.print(_orders(found))
    table = Table("words", "correlation with occlusion", "number", title="alpha against occlusion")
    for name, row in found.agreement.items():
        table.add_row(name, f"{row['correlation']:+.2f}", f"{row['words']:.0f}")
    console.print(table)
    table = Table("attention", "BLEU-4", "CIDEr-D", "log p per word", title="attention swapped")
    for name, row in found.swaps.items():
        cells = (f"{row['bleu4']:.1f}", f"{row['cider_d']:.1f}", f"{row['logprob']:.3f}")
        table.add_row("the model's own" if name == "none" else name, *cells)
    if control is not None:
        cells = (f"{control['bleu4']:.1f}", f"{control['cider_d']:.1f}", "–")
        table.add_row(f"control: {control['model']}", *cells)
    console.print(table)
    if found.regions.get("words"):
        console.print(_regions(found.regions))
    elif found.regions:
        console.print("No word that was said names a region.")
    console.print(
        f"{settings['model']} · {settings['split']}, {settings['pictures']} pictures, "
        f"{settings['probed']} of them covered cell by cell ({settings['cover']}) · "
        f"beam {settings['beam']}"
    )


def _orders(found: Faithfulness) -> Table:
    table = Table("cells ordered by", "deletion, less is better", "insertion, more is better",
                  title="area under p(word)")  # fmt: skip
    for order, area in found.deletion.items():
        table.add_row(order, f"{area:.3f}", f"{found.insertion[order]:.3f}")
    return table


def _regions(regions: dict[str, float]) -> Table:
    title = f"attention on the thing named, {regions['words']:.0f} words"
    table = Table("", "attention", "uniform", "middle", title=title)
    table.add_row("mass inside", f"{regions['mass']:.1%}", f"{regions['uniform_mass']:.1%}", "–")
    table.add_row("peak inside", f"{regions['hit']:.1%}", f"{regions['uniform_hit']:.1%}",
                  f"{regions['middle_hit']:.1%}")  # fmt: skip
    return table
