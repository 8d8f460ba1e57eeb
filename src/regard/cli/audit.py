"""`regard audit`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from regard.cli.files import OutputFolder, check_no_source
from regard.cli.output import complain, tables
from regard.errors import ConfigError
from regard.util.atomic import whole_file

if TYPE_CHECKING:
    from regard.audit.mistakes import Audit

_FILES = ("audit.html", "audit.csv", "audit.json")  # the page first: by it the others are known
_TITLE = re.compile(r"<title>Where .* fails</title>")  # of every page
_HEAD = 4096  # characters of a page that are searched for its title


def audit(
    annotations: Annotated[
        Path, typer.Option(help="Karpathy JSON, COCO JSON, Flickr8k token file, CSV or JSONL.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for audit.html, audit.csv and audit.json.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="An earlier model: what got better and worse since it?")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "val",
    limit: Annotated[int, typer.Option(help="Only the first so many pictures; 0: all.")] = 0,
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Find where a model fails: wrong and missing words, false confidence, idle attention.

    Captions a split and writes one report with galleries, a table of findings, and all numbers. A
    picture that fails is one line on standard error; the others go on, and the status is 1.
    """
    from regard import load
    from regard.audit.mistakes import audit as run_audit
    from regard.data import load_dataset

    _check_replaced(out, annotations)
    dataset = load_dataset(annotations, images or "")
    captioner = load(model, device=device)
    rival = load(against, device=device) if against else None
    folder = OutputFolder(out, "--out").folder
    errors = Console(stderr=True)
    audits: list[Audit] = []
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        for one in [captioner, *([rival] if rival else [])]:
            task = bar.add_task(one.name)
            audits.append(
                run_audit(
                    one, dataset, split=split, limit=limit, beam=beam,
                    report=lambda done, total, task=task: bar.update(
                        task, completed=done, total=total
                    ),
                )
            )  # fmt: skip
    _write(folder, audits)
    _print(audits, folder)
    failures = {key: why for one in audits for key, why in one.failures.items()}
    for key, reason in failures.items():
        complain(f"{key}: {reason}")
    raise typer.Exit(1 if failures else 0)


def _check_replaced(out: Path, annotations: Path) -> None:
    """Refuse a folder where the report would cost somebody a file: now, not after the work.

    Raises:
        ConfigError: a file of the report's names is there, and no audit wrote it, or it is read.
    """
    there = [out / name for name in _FILES if (out / name).exists()]
    for file in there:
        check_no_source(file, "--out", [annotations])
    if there and not _is_page(out / _FILES[0]):
        raise ConfigError(
            f"--out {out} holds {there[0].name}, which no audit wrote, so it is not replaced. "
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
        try:
            # A file name that is no UTF-8 cannot be written as it is.
            with whole_file(folder / name) as new:
                new.write_text(text, "utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            raise ConfigError(f"{folder / name} cannot be written: {error.strerror}.") from error


def _print(audits: list[Audit], folder: Path) -> None:
    columns = [c for one in audits for c in (one.settings["model"], "pictures")]
    table = Table("findings", *columns)
    counts = [one.counts() for one in audits]
    for kind in counts[0]:
        cells = [str(c[kind][name]) for c in counts for name in ("findings", "pictures")]
        table.add_row(kind, *cells)
    console = tables()
    console.print(table)
    if len(audits) > 1:
        from regard.audit.records import changes

        gains = [change.gain for change in changes(*audits)]
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        console.print(f"{better} pictures better, {worse} worse")
    console.print(f"{folder / 'audit.html'}", soft_wrap=True, markup=False, highlight=False)
