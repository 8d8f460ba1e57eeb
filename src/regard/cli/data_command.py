"""`regard data`: checks, shards and synthetic data sets."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from regard.cli import options
from regard.cli.options import argument, option
from regard.cli.output import complain, say
from regard.cli.progress import reporting
from regard.errors import ConfigError, UnknownName
from regard.util.folder_lock import locked
from regard.util.shown_text import printable, printable_json, without_secrets

app = typer.Typer(
    help="Check your own data, write shards, or generate synthetic data with ground truth.",
    no_args_is_help=True,
)


@app.command()
def check(
    annotations: Annotated[
        str,
        argument(
            "CSV, JSONL, JSON (Karpathy, COCO, MSR-VTT, a list), Flickr8k tokens, MSVD's folder, "
            "shards (.tar), or the folder of an annotation store."
        ),
    ],
    images: options.Images = None,
    kind: Annotated[
        str,
        option(
            "auto, karpathy, coco, flickr8k, csv, jsonl, mapping, msvd, msvd_csv, msrvtt or clips."
        ),
    ] = "auto",
    complete: Annotated[
        bool, option("List every problem, not five examples of a kind.", "--all")
    ] = False,
    as_json: Annotated[bool, option("Print the report as JSON.", "--json")] = False,
) -> None:
    """Report everything that is wrong with a data set; the status is 1 if there are errors."""
    from regard.data.check import check_dataset

    report = check_dataset(annotations, images or "", kind=kind)
    text = json.dumps(report.to_json(), ensure_ascii=False) if as_json else ""
    said = printable_json(text) or printable(without_secrets(report.text(complete=complete)))
    typer.echo(said)
    raise typer.Exit(1 if report.errors else 0)


@app.command()
def shard(
    dataset: Annotated[str, argument("Captions, as for `regard data check`.")],
    out: Annotated[str, argument("Folder to write into, or an fsspec URL of one.")],
    images: options.Images = None,
    size: Annotated[int, option("Largest size of a shard in megabytes.", min=1)] = 256,
) -> None:
    """Write a data set as WebDataset shards, which `regard train --data` takes."""
    from regard.data import load_dataset
    from regard.data.shards import write_shards

    captions = load_dataset(dataset, images or "")
    for note in captions.notes:
        complain(f"{dataset}: {note}")
    with reporting() as report:
        manifest = write_shards(captions, out, size=size * 10**6, report=partial(report, "writing"))
    say(without_secrets(manifest))


@app.command()
def synthetic(
    out: Annotated[Path, argument("Folder to write into.")],
    medium: Annotated[str, option("image, video or volume.")] = "image",
    train: Annotated[int, option("Training scenes.", min=0)] = 6000,
    val: Annotated[int, option("Validation scenes, of other combinations.", min=0)] = 500,
    test: Annotated[int, option("Test scenes, of further combinations.", min=0)] = 500,
    seed: Annotated[int, option("Seed of the random numbers.", min=0)] = 0,
    size: Annotated[int | None, option("Pixels of a side: pictures 64, frames 32.")] = None,
) -> None:
    """Write generated scenes, clips or scans with captions and ground-truth regions."""
    from regard.synthetic.clips import write_clips
    from regard.synthetic.scenes import write_scenes
    from regard.synthetic.volumes import write_volumes

    writers = {"image": write_scenes, "video": write_clips, "volume": write_volumes}
    if medium not in writers:
        raise UnknownName("medium", medium, writers)
    if size is not None and medium == "volume":
        raise ConfigError(f"--size is {size}, but volumes have a fixed size. Leave it out.")
    sizes = {} if size is None else {"size": size}
    with locked(out, "regard data synthetic", complain):
        path = writers[medium](out, train=train, val=val, test=test, seed=seed, **sizes)
    say(path)
