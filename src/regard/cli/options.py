"""Options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Files = Annotated[
    list[str],
    typer.Argument(
        help="Pictures, clips, scans, folders, patterns, or - for paths on standard input."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="Folder, shipped model or hub id; by default the shipped model."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
BatchSize = Annotated[int, typer.Option(help="Pictures that go through the network together.")]

# Data sets
Annotations = Annotated[Path, typer.Option(help="Captions, as for `regard data check`.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the pictures, clips or scans.")]
Split = Annotated[str, typer.Option(help="Part of the data.")]
Limit = Annotated[int, typer.Option(help="Use only the first so many pictures; 0: all.")]

# Decoding; None leaves the choice to the model
Beam = Annotated[int, typer.Option(help="Beam width; 1 is greedy.")]
Context = Annotated[str, typer.Option(help="Hard attention: expected, sample or argmax.")]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Longest caption in tokens; by default 20 words, or as in training."),
]
LengthPenalty = Annotated[
    float | None,
    typer.Option(help="Divide log p by length to this power; by default the model's own."),
]
BlockNgram = Annotated[
    int | None,
    typer.Option(
        help="Size of n-grams that must not repeat, 0: all may; by default the model's own."
    ),
]

# Output
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="File for all results, as JSON.")]


def given(**options: Any) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
