"""`regard bulk`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli.options import Beam, BlockNgram, Context, LengthPenalty, MaxLength, given
from regard.cli.output import complain, error_console, json_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import Progress

    from regard.bulk import BulkRun, FinishedUnit

_EVERY = 30.0  # seconds between lines of progress where there is no terminal


def bulk(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, pattern, list (.txt, .csv, .tsv, .jsonl), .parquet or .tar: path or URL."
        ),
    ],
    out: Annotated[str, typer.Argument(help="Folder for the rows: path or URL.")],
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="ray; local: this process; auto: Ray where it is installed.")
    ] = "auto",
    address: Annotated[
        str,
        typer.Option(
            help="Ray cluster: auto (one that runs here, else a new one), local, ray://..."
        ),
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of Ray, a core each; else one for every core.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="parquet or jsonl.")] = "parquet",
    traces: Annotated[
        bool, typer.Option("--traces", help="Add maps, gates and alternatives of every word.")
    ] = False,
    beam: Beam = 3,
    max_length: MaxLength = None,
    length_penalty: LengthPenalty = None,
    block_ngram: BlockNgram = None,
    context: Context = "expected",
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    unit: Annotated[int, typer.Option(help="Items that are written together.")] = 256,
    column: Annotated[
        str | None, typer.Option(help="Of a list or Parquet: what names or holds the files.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also do units again in which an item failed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The counts as JSON.")] = False,
) -> None:
    """Caption any number of files into shards; the same command goes on where it was stopped.

    Every item gets one row, with the reason where it failed; the status is then 1.
    """
    from regard.bulk import Job, engine_for, open_run, run

    engine = engine_for(engine, address, workers)  # before a plan is written
    options = {"beam": beam, "context": context} | given(
        max_length=max_length, length_penalty=length_penalty, block_ngram=block_ngram
    )
    job = Job(source, out, model, form, traces, unit, batch_size, column, options)
    began = time.monotonic()
    todo = open_run(job, retry_failed=retry_failed)
    units, rows, failed = todo.there
    watch = _Watch(todo)
    done = 0
    for part in watch.pass_on(run(todo, engine=engine, address=address, workers=workers)):
        done += part.rows
        rows += part.rows
        failed += part.failed
    seconds = time.monotonic() - began
    if as_json:
        json_line({
            "out": out, "rows": rows, "failed": failed, "units": todo.plan.units,
            "units_before": units, "rows_now": done, "seconds": round(seconds, 3),
        })  # fmt: skip
    else:
        typer.echo(f"{out}: {rows:,} rows, {done:,} of them now, {failed:,} of items that failed")
    if failed:
        complain(f"{failed:,} of {rows:,} items failed; `error` in their rows says why.")
    raise typer.Exit(1 if failed else 0)


class _Watch:
    """Shows on standard error how much is done, how fast, and what is left: a bar, or lines."""

    def __init__(self, todo: BulkRun) -> None:
        units, self._rows, self._failed = todo.there
        self._units, self._all_units = units, todo.plan.units
        self._items = todo.plan.items
        self._now = self._units_now = 0
        self._began = self._said = time.monotonic()

    def pass_on(self, parts: Iterable[FinishedUnit]) -> Iterator[FinishedUnit]:
        """Pass units on as they come."""
        bar = self._bar()
        task = bar.add_task("captioning", total=self._all_units) if bar else None
        try:
            for part in parts:
                self._units += 1
                self._units_now += 1
                self._now += part.rows
                self._rows += part.rows
                self._failed += part.failed
                if bar is not None and task is not None:
                    bar.update(task, completed=self._units, description=self.line())
                elif time.monotonic() - self._said >= _EVERY:
                    self._said = time.monotonic()
                    complain(self.line())
                yield part
        finally:
            if bar is not None:
                bar.stop()

    def line(self) -> str:
        """Return how far it is, in words."""
        seconds = time.monotonic() - self._began
        rate = self._now / seconds if seconds else 0.0
        of = f"of {self._items:,}" if self._items is not None else "items"
        share = f", unit {self._units:,} of {self._all_units:,}" if self._items is None else ""
        failed = f", {self._failed:,} failed" if self._failed else ""
        return f"{self._rows:,} {of}{share}{failed}, {rate:.1f}/s, {self._left(seconds)} left"

    def _left(self, seconds: float) -> str:
        if self._items is None:  # as many items in the units to come as in those that were done
            done, left = self._units_now, self._all_units - self._units
            left = seconds * left / done if done else 0.0
        else:
            left = seconds * (self._items - self._rows) / self._now if self._now else 0.0
        hours, rest = divmod(round(max(0.0, left)), 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"

    def _bar(self) -> Progress | None:
        console = error_console()
        if console is None:
            return None
        from rich.progress import BarColumn, Progress, TextColumn

        text = TextColumn("{task.description}", markup=False)
        bar = Progress(text, BarColumn(), console=console, transient=True, redirect_stdout=False)
        bar.start()
        return bar
