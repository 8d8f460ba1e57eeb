"""`regard reading`: have captions judged by eye, on pictures that chance drew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regard.cli.files import OutputFolder
from regard.cli.output import complain, reporting, tables
from regard.errors import ConfigError, DatasetError

app = typer.Typer(help="Judge captions by eye, on pictures that chance drew.", no_args_is_help=True)
_TABLE = "judgements.csv"


@app.command()
def draw(
    annotations: Annotated[Path, typer.Option(help="Captions, as for `regard data check`.")],
    out: Annotated[Path, typer.Option(help=f"Folder for the sheets and {_TABLE}.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "val",
    pictures: Annotated[int, typer.Option(help="How many are drawn.")] = 100,
    seed: Annotated[int, typer.Option(help="A seed draws the same pictures for all models.")] = 0,
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Draw pictures of a split by a seed, caption them and write what a reader needs.

    sheet-1.png and so on hold 20 pictures each with their captions below, judgements.csv a row for
    each, to be filled in: content right, partly or wrong; grammatical yes or no. A folder that
    holds a table already is left alone.
    """
    from regard import load
    from regard.audit.human_eval import RatingItem, rating_sheets, rating_table, sample_items
    from regard.captioner import Failure
    from regard.data import load_dataset
    from regard.data.dataset import split_named
    from regard.explain.drawing import drawing_of, save_figure
    from regard.util.atomic import whole_file

    if (out / _TABLE).exists():
        raise ConfigError(
            f"{out / _TABLE} is there already, and somebody may have filled it in. Name another "
            "folder, or move it away."
        )
    split = split_named(split)
    items = sample_items(
        load_dataset(annotations, images or ""), split=split, pictures=pictures, seed=seed
    )
    captioner = load(model, device=device)
    folder = OutputFolder(out, "--out").folder
    if captioner.medium != "image":
        raise ConfigError(
            f"{captioner.name!r} captions {captioner.medium}s, and a reading test shows pictures."
        )
    shown: list[RatingItem] = []
    failed = False
    with reporting() as report:
        results = captioner.caption_many((item.file for item in items), beam=beam)
        for number, (item, result) in enumerate(zip(items, results, strict=True), 1):
            if isinstance(result, Failure):
                failed = True
                complain(f"{item.key}: {result.error}")
                shown.append(RatingItem(number, item.key, "", None))
            else:
                assert result.pixels is not None
                shown.append(RatingItem(number, item.key, result.text, drawing_of(result.pixels)))
            report("captioning", number, len(items))
    about = f"{pictures} of {split}, seed {seed}"
    try:
        for number, figure in enumerate(rating_sheets(shown, about), 1):
            save_figure(figure, folder / f"sheet-{number}.png")
        with whole_file(folder / _TABLE) as new:
            new.write_text(rating_table(shown), "utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}.") from error
    typer.echo(str(out / _TABLE))
    raise typer.Exit(1 if failed else 0)


@app.command()
def count(
    judgements: Annotated[list[Path], typer.Argument(help="Tables that were filled in.")],
) -> None:
    """Count filled-in tables: each answer's number, its share and the share's 95 % interval."""
    from rich.table import Column, Table

    from regard.audit.human_eval import ANSWERS, count_ratings, wilson_interval
    from regard.util.safe_io import Unreadable, text_of

    answers = [(name, answer) for name, some in ANSWERS.items() for answer in some]
    heads = [a if name == "content" else f"{name}: {a}" for name, a in answers]
    table = Table(Column("", overflow="fold"), "read", *heads)
    for path in judgements:
        try:
            found = count_ratings(text_of(path).removeprefix("\ufeff"), str(path))
        except (Unreadable, OSError) as error:
            raise DatasetError(f"{path} cannot be read: {error}.") from error
        cells: list[str] = []
        for name, answer in answers:
            n = found.counts[name][answer]
            low, high = wilson_interval(n, found.rated) if found.rated else (0.0, 1.0)
            cells.append(f"{n} ({low:.0%} to {high:.0%})")
        table.add_row(str(path), str(found.rated), *cells)
        if found.unrated:
            complain(f"{path}: {found.unrated} captions lack an answer and are not counted.")
    tables().print(table)
