"""`regard bulk`."""

import time
from typing import Annotated

import typer

from regard.cli import options
from regard.cli.options import argument, option
from regard.cli.output import complain, json_line, say, suggest_fast
from regard.cli.progress import BulkProgress


def bulk(
    source: Annotated[
        str,
        argument("Folder, pattern, list (.txt, .csv, .tsv, .jsonl), .parquet or .tar; or a URL."),
    ],
    out: Annotated[str, argument("Folder for the rows: path or URL.")],
    model: options.Model = None,
    engine: Annotated[str, option("local: this process; ray; auto: Ray if installed.")] = "auto",
    address: Annotated[
        str, option("Ray cluster: auto (one that runs here, else a new one), local, ray://...")
    ] = "auto",
    workers: Annotated[int | None, option("Ray workers; by default one per core.", min=1)] = None,
    form: Annotated[str, option("parquet or jsonl.", "--format")] = "parquet",
    traces: Annotated[bool, option("Add maps, gates and alternatives.", "--traces")] = False,
    beam: options.Beam = 3,
    max_length: options.MaxLength = None,
    length_penalty: options.LengthPenalty = None,
    block_ngram: options.BlockNgram = None,
    context: options.Context = "expected",
    batch_size: options.BatchSize = options.AUTO,
    unit: Annotated[int, option("Items that are written together.")] = 256,
    column: Annotated[str | None, option("Column of a list or Parquet file.")] = None,
    device: options.Device = options.AUTO,
    retry_failed: Annotated[bool, option("Redo units with failures.", "--retry-failed")] = False,
    as_json: Annotated[bool, option("Print the counts as JSON.", "--json")] = False,
) -> None:
    """Caption any number of files into shards; the same command continues after an interruption.

    Every item gets one row, which for a failed item holds the reason; the status is then 1.
    """
    from regard.bulk import Job, engine_for, open_run, run
    from regard.bulk.filesystem import shown

    engine = engine_for(engine, address, workers)  # checked before a plan is written
    decoding = {"beam": beam, "context": context} | options.given(
        max_length=max_length, length_penalty=length_penalty, block_ngram=block_ngram
    )
    device = options.placed(device)
    size = options.items_of(batch_size, device)
    job = Job(source, out, model, form, traces, unit, size, column, decoding)
    began = time.monotonic()
    todo = open_run(job, retry_failed=retry_failed, report=complain)
    for line in todo.plan.left_out:
        complain(line)
    suggest_fast(model, todo.plan.items or 0)
    progress = BulkProgress(todo)
    working = run(todo, engine=engine, address=address, workers=workers, device=device)
    for _ in progress.watch(working):
        pass
    seconds = time.monotonic() - began
    rows, failed = progress.rows, progress.failed
    if as_json:
        json_line({
            "out": shown(out), "rows": rows, "failed": failed, "units": todo.plan.units,
            "units_before": todo.there[0], "rows_now": progress.new_rows,
            "seconds": round(seconds, 3),
        })  # fmt: skip
    else:
        counts = f"{rows:,} rows, {progress.new_rows:,} of them now"
        say(f"{shown(out)}: {counts}, {failed:,} of items that failed")
    if failed:
        complain(f"{failed:,} of {rows:,} items failed; `error` in their rows says why.")
    raise typer.Exit(1 if failed else 0)
