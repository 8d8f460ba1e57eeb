"""`regard export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="Folder, shipped model or hub id.")],
    to: Annotated[str, typer.Option(help="The format: onnx.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="Folder for a copy with the graphs; else the model's own.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the encoder to 8 bits; needs --calibrate.")
    ] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of pictures like those to be captioned, for --int8.")
    ] = None,
) -> None:
    """Make a trained model light: it then captions and explains without torch.

    Writes the graphs of encoder and decoder beside the model's weights, which they point into.
    """
    from regard.errors import needs_torch
    from regard.media.find import find_files
    from regard.pretrained import find_model

    with needs_torch("exporting a model"):
        from regard.export import export_model
    examples = list(find_files([str(calibrate)])) if calibrate else []
    folder = export_model(find_model(model), to=to, out=out, int8=int8, examples=examples)
    typer.echo(str(folder))
