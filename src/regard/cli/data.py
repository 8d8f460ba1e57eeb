"""`regard data`: look after data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from regard.errors import ConfigError, UnknownName

app = typer.Typer(
    help="Check your own data, write shards; make scenes whose truth is known.",
    no_args_is_help=True,
)


@app.command()
def check(
    annotations: Annotated[
        Path,
        typer.Argument(
            help="CSV, JSONL, Karpathy, COCO or MSR-VTT JSON, Flickr8k tokens, MSVD's folder."
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, clips or scans.")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="auto, karpathy, coco, flickr8k, csv, jsonl, msvd, msvd_csv, msrvtt or clips."
        ),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Report everything that is wrong with a data set; status 1 where anything is."""
    from regard.data.check import check_dataset

    report = check_dataset(annotations, images or "", kind=kind)
    typer.echo(json.dumps(report.to_json(), ensure_ascii=False) if as_json else report.text())
    raise typer.Exit(1 if report.problems else 0)


@app.command()
def shard(
    dataset: Annotated[
        str,
        typer.Argument(help="Captions, as `regard data check` takes them."),
    ],
    out: Annotated[str, typer.Argument(help="Folder to write into, or an fsspec URL of one.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, clips or scans.")
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Megabytes of a shard at most.")] = 256,
) -> None:
    """Write a data set as WebDataset shards, which `regard train --data` takes."""
    from regard.cli.output import reporting
    from regard.data import load_dataset
    from regard.data.shard_writer import write_shards

    with reporting() as report:
        manifest = write_shards(
            load_dataset(dataset, images or ""),
            out,
            size=size * 10**6,
            report=lambda done, total: report("writing", done, total),
        )
    typer.echo(manifest)


@app.command()
def synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to write into.")],
    medium: Annotated[str, typer.Option(help="image, video or volume.")] = "image",
    train: Annotated[int, typer.Option(min=0, help="Training scenes.")] = 6000,
    val: Annotated[
        int, typer.Option(min=0, help="Validation scenes, of other combinations.")
    ] = 500,
    test: Annotated[int, typer.Option(min=0, help="Test scenes, of yet others.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures (64) or frames (32) in pixels.")
    ] = None,
) -> None:
    """Write scenes, clips or scans made by rule, and where or when their captions are true."""
    from regard.synthetic.clips import write_clips
    from regard.synthetic.scenes import write_scenes
    from regard.synthetic.volumes import write_volumes

    writers = {"image": write_scenes, "video": write_clips, "volume": write_volumes}
    if medium not in writers:
        raise UnknownName("medium", medium, writers)
    if size is not None and medium == "volume":
        raise ConfigError(f"--size is {size}, and volumes have the size in millimetres they have.")
    sizes = {} if size is None else {"size": size}
    path = writers[medium](out, train=train, val=val, test=test, seed=seed, **sizes)
    typer.echo(str(path))
