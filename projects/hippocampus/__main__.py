"""`python -m projects.hippocampus`: from the Decathlon's scans to a model and its tables.

Run it from the root of a checkout; README.md has the whole sequence of commands.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from projects.command_line import progress, run
from regard import ConfigError

app = typer.Typer(
    help="Write the data set, pretrain the encoder, evaluate a model of hippocampus scans.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataFolder = Annotated[Path, typer.Argument(help="Folder that the command `data` wrote.")]
Model = Annotated[str, typer.Option(help="Folder, shipped model or hub id.")]


@app.command()
def data(
    folder: Annotated[
        Path, typer.Argument(help="Folder with images and labels (Decathlon, Task04).")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write into.")],
    captions: Annotated[int, typer.Option(min=1, help="Captions of each real scan.")] = 6,
    copies: Annotated[int, typer.Option(min=0, help="Warped copies of each training scan.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
) -> None:
    """Caption hippocampus scans by rule from their masks: rule-made text on real scans."""
    from projects.hippocampus.data import write_data

    with progress("measuring") as report:
        dataset = write_data(
            folder, out, captions=captions, copies=copies, seed=seed, report=report
        )
    typer.echo(str(dataset))


@app.command()
def train_encoder(
    folder: DataFolder,
    out: Annotated[Path, typer.Argument(help="File for the weights (safetensors).")],
    recipe: Annotated[str, typer.Option(help="Its encoder is trained.")] = "hippocampus-soft",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training scans.")] = 20,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
) -> None:
    """Pretrain the encoder on masks and facts; `regard train` then uses it as encoder.weights."""
    from projects.hippocampus import pretrain_masks

    began = time.process_time()

    def report(epoch: int, loss: float, right: float) -> None:
        seconds = time.process_time() - began
        typer.echo(
            f"epoch {epoch}: loss {loss:.3f}, val facts right {right:.3f}, {seconds:.0f} s of CPU"
        )

    pretrain_masks.train_encoder(
        folder, out, recipe=recipe, epochs=epochs, settings=settings, report=report
    )


@app.command()
def evaluate(
    folder: DataFolder,
    model: Model = "hippocampus-soft",
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL", help="Another model to score; may be repeated."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    beam: Annotated[int, typer.Option(min=1, help="Beam width; 1 is greedy.")] = 1,
    tokenizer: Annotated[str, typer.Option(help="As of `regard evaluate`.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the tables and captions here.")
    ] = None,
) -> None:
    """Print the tables of held-out scans: facts, text scores, attention against the masks."""
    from projects.hippocampus.evaluate import evaluate_model, table

    if wrong := [one for one in control or () if "=" not in one]:
        raise ConfigError(f"--control is {wrong[0]!r}; it must be NAME=MODEL.")
    controls = dict(one.split("=", 1) for one in control or ())
    found = evaluate_model(
        folder, model=model, controls=controls, split=split, beam=beam, tokenizer=tokenizer
    )
    for name, rows in found.tables.items():
        typer.echo(f"\n{name} ({split}, {found.scans} scans)\n\n{table(rows)}")
    if json_file:
        json_file.write_text(
            json.dumps(found.tables | {"captions": found.texts}, indent=1), "utf-8"
        )


@app.command()
def out_of_distribution(folder: DataFolder, model: Model = "hippocampus-soft") -> None:
    """Count the notices that an input is unlike the training data, by kinds of input."""
    from projects.hippocampus.out_of_distribution import HEADER, count_notices

    typer.echo(HEADER)
    for count in count_notices(folder, model):
        typer.echo(count.row())


if __name__ == "__main__":
    run(app, "hippocampus")
