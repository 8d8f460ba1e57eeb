"""`regard audit` and `regard reading`: a model's mistakes, by metrics and by human ratings."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from regard.cli import options
from regard.cli.options import argument, option
from regard.cli.output import (
    OutputFolder,
    check_no_source,
    complain,
    open_dataset,
    print_table,
    say,
    tables,
    write_text,
    writing,
)
from regard.cli.progress import reporting
from regard.errors import ConfigError, DatasetError
from regard.util.shown_text import printable

if TYPE_CHECKING:
    from regard.audit.mistakes import Audit

_FILES = ("audit.html", "audit.csv", "audit.json")  # the page first: it shows who wrote the others
_TITLE = re.compile(r"<title>Where .* fails</title>")  # of every page
_HEAD = 4096  # characters of a page that are searched for its title
_TABLE = "judgements.csv"

reading = typer.Typer(
    help="Judge captions by eye, on pictures drawn at random.", no_args_is_help=True
)


def audit(
    annotations: options.Annotations,
    out: Annotated[Path, option("Folder for audit.html, audit.csv and audit.json.")],
    images: options.Images = None,
    model: options.Model = None,
    against: Annotated[str | None, option("An earlier model to compare with.")] = None,
    split: options.Split = "val",
    limit: options.Limit = 0,
    beam: options.Beam = 3,
    device: options.Device = options.AUTO,
) -> None:
    """Find where a model fails: wrong and missing words, false confidence, idle attention.

    Captions a split and writes one report with galleries, a table of findings, and all numbers. A
    picture that fails is reported on standard error; the others go on, and the status is 1.
    """
    from regard import load
    from regard.audit.mistakes import audit as run_audit

    _check_replaced(out, annotations)
    dataset = open_dataset(annotations, images)
    device = options.placed(device)
    captioners = [load(name, device=device) for name in (model, *([against] if against else []))]
    folder = OutputFolder(out, "--out").folder
    with reporting() as report:
        audits = [
            run_audit(
                captioner, dataset, split=split, limit=limit, beam=beam,
                report=partial(report, captioner.name),
            )
            for captioner in captioners
        ]  # fmt: skip
    _write(folder, audits)
    _print(audits, folder)
    failures = {key: why for one in audits for key, why in one.failures.items()}
    for key, reason in failures.items():
        complain(f"{key}: {reason}")
    raise typer.Exit(1 if failures else 0)


def _check_replaced(out: Path, annotations: Path) -> None:
    """Raise before the work starts if the report would replace a file that no audit wrote.

    Raises:
        ConfigError: such a file exists, or is one that the command reads.
    """
    existing = [out / name for name in _FILES if (out / name).exists()]
    for file in existing:
        check_no_source(file, "--out", [annotations])
    if existing and not _is_page(out / _FILES[0]):
        raise ConfigError(
            f"--out {out} holds {existing[0].name}, which no audit wrote, so it is not replaced. "
            "Name another folder, or remove the file."
        )


def _is_page(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as page:
        return _TITLE.search(page.read(_HEAD)) is not None


def _write(folder: Path, audits: list[Audit]) -> None:
    from regard.audit.records import report_csv, report_json
    from regard.audit.report import report_html

    record = json.dumps(report_json(*audits), ensure_ascii=False, indent=1)
    texts = (report_html(*audits), report_csv(audits[0]), record + "\n")
    for name, text in zip(_FILES, texts, strict=True):
        with writing(folder / name):
            write_text(folder / name, text)


def _print(audits: list[Audit], folder: Path) -> None:
    columns = [c for one in audits for c in (one.settings["model"], "pictures")]
    tokens = audits[0].settings.get("tokens", "words")
    title = f"compared by {tokens}" if tokens != "words" else None
    table = Table("findings", *columns, title=title)
    counts = [one.counts() for one in audits]
    for kind in counts[0]:
        cells = [str(c[kind][name]) for c in counts for name in ("findings", "pictures")]
        table.add_row(kind, *cells)
    console = tables()
    print_table(table, console)
    if len(audits) > 1:
        from regard.audit.records import changes

        gains = [change.gain for change in changes(*audits)]
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        console.print(f"{better} pictures better, {worse} worse")
    page = printable(str(folder / "audit.html"))
    console.print(page, soft_wrap=True, markup=False, highlight=False)


@reading.command()
def draw(
    annotations: options.Annotations,
    out: Annotated[Path, option(f"Folder for the sheets and {_TABLE}.")],
    images: options.Images = None,
    model: options.Model = None,
    split: options.Split = "val",
    pictures: Annotated[int, option("Number of pictures to draw.")] = 100,
    seed: Annotated[int, option("The same seed draws the same pictures.")] = 0,
    beam: options.Beam = 3,
    device: options.Device = options.AUTO,
) -> None:
    """Draw pictures of a split at random, caption them and write sheets and a table for a reader.

    sheet-1.png and so on hold 20 pictures each with their captions below, judgements.csv a row for
    each, to be filled in: content right, partly or wrong; grammatical yes or no. A folder that
    holds a table already is left alone.
    """
    from regard import load
    from regard.audit.human_eval import RatingItem, rating_sheets, rating_table, sample_items
    from regard.captioner import Failure
    from regard.data.dataset import split_named
    from regard.explain.drawing import save_figure
    from regard.explain.maps import drawing_of

    if (out / _TABLE).exists():
        raise ConfigError(
            f"{out / _TABLE} exists already, and somebody may have filled it in. Name another "
            "folder, or move it away."
        )
    split = split_named(split)
    dataset = open_dataset(annotations, images)
    items = sample_items(dataset, split=split, pictures=pictures, seed=seed)
    captioner = load(model, device=options.placed(device))
    folder = OutputFolder(out, "--out").folder
    if captioner.medium != "image":
        raise ConfigError(
            f"{captioner.name!r} captions {captioner.medium}s, but a reading test needs pictures."
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
    with writing(out):
        sheets = rating_sheets(shown, f"{pictures} of {split}, seed {seed}")
        for number, figure in enumerate(sheets, 1):
            save_figure(figure, folder / f"sheet-{number}.png")
        write_text(folder / _TABLE, rating_table(shown))
    say(out / _TABLE)
    raise typer.Exit(1 if failed else 0)


@reading.command()
def count(judgements: Annotated[list[Path], argument("Tables that were filled in.")]) -> None:
    """Count filled-in tables: each answer's number, its share and the share's 95 % interval."""
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
    print_table(table)
