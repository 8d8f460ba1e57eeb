"""Options that several commands share, each defined once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from regard.cli.output import complain


def option(help: str, *names: str, **settings: Any) -> Any:
    """Return a `typer.Option`; help comes first, since every option has one."""
    return typer.Option(*names, help=help, **settings)


def argument(help: str) -> Any:
    """Return a `typer.Argument`."""
    return typer.Argument(help=help)


Files = Annotated[
    list[str],
    argument("Pictures, clips, scans, folders, patterns, or - for paths on standard input."),
]
Model = Annotated[
    str | None, option("Folder, shipped model or hub id; by default the shipped model.")
]
AUTO = "auto"
PICTURES_ON_CPU = 32
Device = Annotated[
    str, option("auto (a GPU where torch sees one, else the CPU), cpu, cuda, cuda:1 or mps.")
]
BatchSize = Annotated[
    str,
    option("Pictures that go through the network together; auto: 32, or what a GPU has room for."),
]

# Data sets
Annotations = Annotated[Path, option("Captions, as for `regard data check`.")]
Images = Annotated[Path | None, option("Folder of the pictures, clips or scans.")]
Split = Annotated[str, option("Split of the data: train, val or test.")]
Limit = Annotated[int, option("Use only the first N pictures; 0: all.")]

# Decoding; None leaves the choice to the model
Beam = Annotated[int, option("Beam width; 1 is greedy.")]
Context = Annotated[str, option("Hard attention: expected, sample or argmax.")]
MaxLength = Annotated[
    int | None, option("Longest caption in tokens; by default 20 words, or as in training.")
]
LengthPenalty = Annotated[
    float | None, option("Divide log p by length to this power; by default the model's own.")
]
BlockNgram = Annotated[
    int | None,
    option("Size of n-grams that must not repeat, 0: all may; by default the model's own."),
]

# Output
JsonLines = Annotated[bool, option("Print one JSON object per line.", "--json")]
JsonFile = Annotated[Path | None, option("File for all results, as JSON.", "--json")]


def placed(device: str) -> str:
    """Return the device for `--device`; report where the model runs, and why, on stderr."""
    from regard.checkpoint.components import placed

    return placed(device, complain)


def items_of(batch_size: str, device: str) -> int:
    """Return the number of pictures per batch for `--batch-size` on a device."""
    if batch_size == AUTO:
        if device == "cpu":
            return PICTURES_ON_CPU
        from regard.util.torch_device import pictures_at_once

        return max(PICTURES_ON_CPU, pictures_at_once(device))
    if not batch_size.isdecimal():
        raise typer.BadParameter(
            f"{batch_size!r} is neither a number nor auto", param_hint="--batch-size"
        )
    return int(batch_size)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
