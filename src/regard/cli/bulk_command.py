"""`regard bulk`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from regard.cli import options
from regard.cli.output import complain, json_line
from regard.cli.progress import BulkProgress


def bulk(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, pattern, list (.txt, .csv, .tsv, .jsonl), .parquet or .tar: path or URL."
        ),
    ],
    out: Annotated[str, typer.Argument(help="Folder for the rows: path or URL.")],
    model: options.Model = None,
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
        int | None, typer.Option(min=1, help="Ray workers, one core each; by default all cores.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="parquet or jsonl.")] = "parquet",
    traces: Annotated[
        bool, typer.Option("--traces", help="Add maps, gates and alternatives of every word.")
    ] = False,
    beam: options.Beam = 3,
    max_length: options.MaxLength = None,
    length_penalty: options.LengthPenalty = None,
    block_ngram: options.BlockNgram = None,
    context: options.Context = "expected",
    batch_size: options.BatchSize = 32,
    unit: Annotated[int, typer.Option(help="Items that are written together.")] = 256,
    column: Annotated[
        str | None, typer.Option(help="Column of a list or Parquet that names or holds the files.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also redo units in which an item failed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Caption any number of files into shards; the same command continues after an interruption.

    Every item gets one row, with the reason where it failed; the status is then 1.
    """
    from regard.bulk import Job, engine_for, open_run, run

    engine = engine_for(engine, address, workers)  # checked before a plan is written
    decoding = {"beam": beam, "context": context} | options.given(
        max_length=max_length, length_penalty=length_penalty, block_ngram=block_ngram
    )
    job = Job(source, out, model, form, traces, unit, batch_size, column, decoding)
    began = time.monotonic()
    todo = open_run(job, retry_failed=retry_failed)
    progress = BulkProgress(todo)
    for _ in progress.watch(run(todo, engine=engine, address=address, workers=workers)):
        pass
    seconds = time.monotonic() - began
    rows, failed = progress.rows, progress.failed
    if as_json:
        json_line({
            "out": out, "rows": rows, "failed": failed, "units": todo.plan.units,
            "units_before": todo.there[0], "rows_now": progress.new_rows,
            "seconds": round(seconds, 3),
        })  # fmt: skip
    else:
        counts = (
            f"{rows:,} rows, {progress.new_rows:,} of them now, {failed:,} of items that failed"
        )
        typer.echo(f"{out}: {counts}")
    if failed:
        complain(f"{failed:,} of {rows:,} items failed; `error` in their rows says why.")
    raise typer.Exit(1 if failed else 0)
