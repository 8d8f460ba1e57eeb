"""`regard audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from regard.cli.files import OutputFolder
from regard.cli.output import complain, tables
from regard.errors import ConfigError
from regard.folders import whole_file

if TYPE_CHECKING:
    from regard.explain.failures import Audit


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
    from regard.data import load_dataset
    from regard.explain.failures import audit as run_audit

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


def _write(folder: Path, audits: list[Audit]) -> None:
    from regard.explain.records import report_csv, report_json
    from regard.explain.report import report_html

    record = json.dumps(report_json(*audits), ensure_ascii=False, indent=1)
    texts = {
        "audit.html": report_html(*audits),
        "audit.csv": report_csv(audits[0]),
        "audit.json": record + "\n",
    }
    for name, text in texts.items():
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
        from regard.explain.changes import changes

        gains = [change.gain for change in changes(*audits)]
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        console.print(f"{better} pictures better, {worse} worse")
    console.print(f"{folder / 'audit.html'}", soft_wrap=True, markup=False, highlight=False)
