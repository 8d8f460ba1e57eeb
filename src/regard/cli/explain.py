"""`regard explain`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli.files import OutputFolder, sources_of
from regard.cli.output import complain, watched
from regard.errors import ConfigError

if TYPE_CHECKING:
    from regard.captioner import Captioner
    from regard.types import Caption


def explain(
    files: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders, patterns, or - for paths on standard input."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for what is made.")],
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="A second model, to stand beside the first word by word.")
    ] = None,
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 3,
    context: Annotated[
        str, typer.Option(help="Hard attention: expected, sample or argmax.")
    ] = "expected",
    occlusion: Annotated[
        bool, typer.Option(help="Cover each cell and see every word's probability fall.")
    ] = True,
    animation: Annotated[str, typer.Option(help="webp, gif or none.")] = "webp",
    smooth: Annotated[bool, typer.Option(help="Smooth the maps; else raw cells.")] = True,
    grids: Annotated[bool, typer.Option("--grids", help="Also the raw weights as .npy.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Show where the model looked for every word: sheet, animation, page and numbers.

    For each picture NAME.png, NAME.webp, NAME.html and NAME.json. A picture that fails is one
    line on standard error; the others go on, and the status is 1.
    """
    if animation not in ("webp", "gif", "none"):
        raise typer.BadParameter(
            f"{animation!r} is none of webp, gif, none", param_hint="--animation"
        )
    sources, total = sources_of(files)
    folder = OutputFolder(out, "--out")
    from regard import load
    from regard.captioner import Failure

    captioner = _prepared(load(model, device=device), total or 1, occlusion)
    rival = _prepared(load(compare, device=device), total or 1, occlusion) if compare else None
    wanted = _Wanted(occlusion, animation, smooth, grids)
    failed = False
    results = captioner.caption_many(sources, beam=beam, context=context)
    for result in watched(results, "explaining", total):
        if isinstance(result, Failure):
            failed = True
            complain(result.error)
            continue
        stem = folder.stem(result.file)
        try:
            _explain(captioner, rival, result, stem, wanted, beam)
        except OSError as error:
            raise ConfigError(f"{stem}.* cannot be written: {error.strerror}.") from error
        typer.echo(f"{result.file}: {result.text}")
    raise typer.Exit(1 if failed else 0)


def _prepared(captioner: Captioner, files: int, occlusion: bool) -> Captioner:
    """Make a captioner fast where many pictures are encoded: each once, and once a cell."""
    rows, cols = captioner.encoder.grid_shape
    return captioner.accelerated(files * (2 + rows * cols * occlusion))


@dataclass(frozen=True)
class _Wanted:
    occlusion: bool
    animation: str
    smooth: bool
    grids: bool


def _explain(
    captioner: Captioner,
    rival: Captioner | None,
    caption: Caption,
    stem: Path,
    wanted: _Wanted,
    beam: int,
) -> None:
    """Write all that is wanted of one caption to files that begin with `stem`."""
    import numpy as np

    from regard.explain import compare_sheet, save_animation, save_figure
    from regard.explain.page import Explained, explanation_page
    from regard.explain.probe import occlude

    pairs = [(captioner, caption)]
    if rival is not None:
        pairs.append((rival, rival.caption(caption.file, beam=beam)))
    explained = [
        Explained(said, occlude(model, said) if wanted.occlusion else None) for model, said in pairs
    ]
    captions = [said for _, said in pairs]
    sheet = (
        caption.figure(smooth=wanted.smooth)
        if rival is None
        else compare_sheet(captions, smooth=wanted.smooth)
    )
    save_figure(sheet, _with(stem, ".png"))
    if wanted.animation != "none":
        save_animation(caption, _with(stem, f".{wanted.animation}"), smooth=wanted.smooth)
    _with(stem, ".html").write_text(explanation_page(explained), "utf-8")
    records = [one.to_json() for one in explained]
    record = records[0] if rival is None else records[0] | {"compared": records[1]}
    _with(stem, ".json").write_text(json.dumps(record, ensure_ascii=False) + "\n", "utf-8")
    if wanted.grids:
        np.save(_with(stem, ".npy"), np.stack([word.alpha for word in caption.words]))


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)  # with_suffix would cut a name at its last dot
