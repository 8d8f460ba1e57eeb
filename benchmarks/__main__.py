"""`python -m benchmarks`: time and memory of training and captioning, compared with plain code.

Run it from the root of a checkout: benchmarks are not part of the installed package.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from regard.errors import ConfigError, RegardError, needs_torch

if TYPE_CHECKING:
    from benchmarks.measure import Report
    from benchmarks.workload import Sizes

app = typer.Typer(
    help="Time training, decoding, captioning, the annotation store and the start.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
Against = Annotated[
    list[str] | None,
    typer.Option(help="textbook, plain, or none; may be repeated. Both unless given."),
]
Threads = Annotated[int, typer.Option(min=0, help="Threads; 0: one per core.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each is timed.")]
Seconds = Annotated[float, typer.Option(help="After so long no further round begins.")]
Memory = Annotated[bool, typer.Option(help="Also measure memory, in a process for each.")]
Features = Annotated[int, typer.Option("--annotation-dim", min=1, help="D, features per cell.")]
Cells = Annotated[int, typer.Option(min=1, help="L, cells of the grid.")]
Words = Annotated[int, typer.Option("--vocabulary", min=5, help="V, words.")]

_OTHERS = ("textbook", "plain")
_PIPE_WIDTH = 110  # of tables that are not printed on a terminal


@app.command()
def train(
    annotation_dim: Features = 512,
    cells: Cells = 196,
    vocabulary: Words = 9490,
    batch: Annotated[int, typer.Option(min=1, help="Captions per step.")] = 64,
    captions_per_image: Annotated[
        int, typer.Option(help="Captions of a picture that share its projection.")
    ] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    against: Against = None,
    rounds: Rounds = 8,
    seconds: Seconds = 60.0,
    threads: Threads = 0,
    memory: Memory = True,
    as_json: Json = False,
) -> None:
    """Time the training step: loss with penalty, dropout 0.5, backward, clip, Adam."""
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"--precision is {precision!r}; it must be fp32 or bf16.")
    if captions_per_image < 1 or batch % captions_per_image:
        raise ConfigError(
            f"--batch {batch} is not a multiple of --captions-per-image {captions_per_image}. "
            "Change one of them."
        )
    others = _others(against)
    _use(threads)
    from benchmarks.train import TrainWork, measure_training

    work = TrainWork(
        _sizes(annotation_dim, cells, vocabulary), batch, captions_per_image, precision
    )
    _write(
        measure_training(work, against=others, rounds=rounds, seconds=seconds, memory=memory),
        as_json,
    )


@app.command()
def decode(
    annotation_dim: Features = 512,
    cells: Cells = 196,
    vocabulary: Words = 9490,
    beam: Annotated[int, typer.Option(min=1, help="Beam width; 1 is greedy.")] = 3,
    pictures: Annotated[int, typer.Option(min=1, help="Decoded in a round.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Pictures decoded together.")] = 64,
    alternatives: Annotated[int, typer.Option(min=0, help="Alternatives kept per word.")] = 5,
    against: Against = None,
    rounds: Rounds = 5,
    seconds: Seconds = 60.0,
    threads: Threads = 0,
    memory: Memory = True,
    as_json: Json = False,
) -> None:
    """Time decoding of encoded pictures, with traces; lengths are forced (mean 10.5 words)."""
    others = _others(against)
    _use(threads)
    from benchmarks.decode import DecodeWork, measure_decoding

    sizes = _sizes(annotation_dim, cells, vocabulary)
    work = DecodeWork(sizes, pictures, batch, beam, alternatives)
    _write(
        measure_decoding(work, against=others, rounds=rounds, seconds=seconds, memory=memory),
        as_json,
    )


@app.command()
def caption(
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of JPEGs; else 640×480 ones made of the samples.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="How many, at most.")] = 512,
    beam: Annotated[int, typer.Option(min=1, help="Beam width; 1 is greedy.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    rounds: Rounds = 3,
    seconds: Seconds = 60.0,
    threads: Threads = 0,
    memory: Memory = True,
    as_json: Json = False,
) -> None:
    """Time photographs on disk to captions: reading, decoding, resizing, encoding, words."""
    used = _use(threads)
    from benchmarks.caption import measure_captioning

    report = measure_captioning(
        model=model, images=images, pictures=pictures, beam=beam, batch_size=batch_size,
        rounds=rounds, seconds=seconds, memory=memory, threads=used,
    )  # fmt: skip
    _write(report, as_json)


@app.command()
def store(
    annotation_dim: Features = 512,
    cells: Cells = 196,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the store that is made.")] = 1024,
    batch: Annotated[int, typer.Option(min=1, help="Rows per read.")] = 64,
    rounds: Rounds = 50,
    seconds: Seconds = 60.0,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Time random reads of stored annotations, and how long training waits for them."""
    _use(threads)
    from benchmarks.store import measure_store

    sizes = _sizes(annotation_dim, cells, 9490)
    _write(
        measure_store(sizes=sizes, rows=rows, batch=batch, rounds=rounds, seconds=seconds), as_json
    )


@app.command()
def start(
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="A photograph; else a sample.")] = None,
    rounds: Rounds = 5,
    as_json: Json = False,
) -> None:
    """Time `regard caption one.jpg` as a whole process."""
    from benchmarks.start import measure_start

    _write(measure_start(model=model, picture=picture, rounds=rounds), as_json)


@app.command()
def gpu(
    tiny: Annotated[
        bool, typer.Option("--small", "--tiny", help="Try it on the CPU, in toy sizes.")
    ] = False,
    batch: Annotated[int, typer.Option(min=5, help="Captions of the large batch.")] = 1020,
    rate: Annotated[float, typer.Option(help="Adam's rate with that batch.")] = 1.6e-3,
    decode_batch: Annotated[int, typer.Option(min=1, help="Pictures searched at once.")] = 1024,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object at the end instead of tables.")
    ] = False,
) -> None:
    """Train at COCO's size and search with a beam on one GPU, with the bandwidth bound."""
    _use(0)
    from benchmarks.gpu import measure_gpu

    figures = measure_gpu(
        tiny=tiny,
        batch=batch,
        rate=rate,
        decode_batch=decode_batch,
        report=(lambda title, found: None) if as_json else _print_figures,
    )
    if as_json:
        typer.echo(json.dumps(figures))


def _print_figures(title: str, figures: dict[str, Any]) -> None:
    """Print some figures as a table of Markdown."""
    rows = [f"\n| {title} | |\n|---|---|"]
    for name, value in figures.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, list):
            value = ", ".join(f"{x:.3f}" for x in value)
        rows.append(f"| {name} | {value} |")
    typer.echo("\n".join(rows))
    sys.stdout.flush()


def _others(against: list[str] | None) -> tuple[str, ...]:
    if against is None:
        return _OTHERS
    wrong = [name for name in against if name not in (*_OTHERS, "none")]
    if wrong:
        raise ConfigError(f"--against is {wrong[0]!r}; it must be textbook, plain or none.")
    return tuple(name for name in _OTHERS if name in against)


def _use(threads: int) -> int:
    """Set the number of torch's threads and return it."""
    with needs_torch("a benchmark of this kind"):
        import torch

    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _sizes(annotation_dim: int, cells: int, vocabulary: int) -> Sizes:
    from benchmarks.workload import Sizes

    return Sizes(annotation_dim=annotation_dim, cells=cells, vocabulary=vocabulary)


def _write(report: Report, as_json: bool) -> None:
    record = report.to_json()
    if as_json:
        typer.echo(json.dumps(record))
        return
    table = Table(show_header=False, box=None)
    for name, value in record.items():
        for label, shown in _flat(name, value):
            table.add_row(label, shown)
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(key, inner)]
    if value is None:
        return []
    if isinstance(value, list):
        return [(name.replace("_", " "), " to ".join(f"{v:.5g}" for v in value))]
    return [(name.replace("_", " "), f"{value:.5g}" if isinstance(value, float) else str(value))]


def main() -> None:
    """Run the command line; regard's own errors become one line and status 2."""
    try:
        app(prog_name="python -m benchmarks")
    except RegardError as error:
        typer.echo(f"benchmarks: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
