"""`regard data`: look after data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Check your own data; make scenes whose truth is known.", no_args_is_help=True
)


@app.command()
def check(
    annotations: Annotated[
        Path, typer.Argument(help="CSV, JSONL, Karpathy or COCO JSON, Flickr8k tokens.")
    ],
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures.")] = None,
    kind: Annotated[
        str, typer.Option(help="auto, karpathy, coco, flickr8k, csv or jsonl.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Report everything that is wrong with a data set; status 1 where anything is."""
    from regard.data.check import check_dataset

    report = check_dataset(annotations, images or "", kind=kind)
    typer.echo(json.dumps(report.to_json(), ensure_ascii=False) if as_json else report.text())
    raise typer.Exit(1 if report.problems else 0)


@app.command()
def synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to write into.")],
    train: Annotated[int, typer.Option(min=0, help="Training scenes.")] = 6000,
    val: Annotated[
        int, typer.Option(min=0, help="Validation scenes, of other combinations.")
    ] = 500,
    test: Annotated[int, typer.Option(min=0, help="Test scenes, of yet others.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 64,
) -> None:
    """Write scenes of coloured shapes with captions and the place of every object."""
    from regard.data.synthetic import write_scenes

    typer.echo(str(write_scenes(out, train=train, val=val, test=test, seed=seed, size=size)))


@app.command()
def hippocampus(
    folder: Annotated[
        Path, typer.Argument(help="Folder with images and labels (Decathlon, Task04).")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write into.")],
    captions: Annotated[int, typer.Option(min=1, help="Captions of each real scan.")] = 6,
    copies: Annotated[int, typer.Option(min=0, help="Warped copies of each training scan.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
) -> None:
    """Caption hippocampus scans by rule from their masks: rule-made text on real scans."""
    from regard.cli.output import reporting
    from regard.data.hippocampus import write_hippocampus

    with reporting() as report:
        made = write_hippocampus(
            folder,
            out,
            captions=captions,
            copies=copies,
            seed=seed,
            report=lambda done, total: report("measuring", done, total),
        )
    typer.echo(str(made))
