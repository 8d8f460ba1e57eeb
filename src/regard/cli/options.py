"""Options of decoding that several commands take; what is not given is left to the model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Beam = Annotated[int, typer.Option(help="Beam width; 1 is greedy.")]
Context = Annotated[str, typer.Option(help="Hard attention: expected, sample or argmax.")]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Longest caption in tokens; else 20 words, or as long as in training."),
]
LengthPenalty = Annotated[
    float | None, typer.Option(help="Divide log p by length to this power; else the model's own.")
]
BlockNgram = Annotated[
    int | None,
    typer.Option(help="Say no n-gram of this size twice, 0 any; else the model's own."),
]


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}
