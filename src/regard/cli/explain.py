"""`regard explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli.files import OutputFolder, sources_of
from regard.cli.output import Watch, complain
from regard.errors import ConfigError

if TYPE_CHECKING:
    from regard.captioner import Failure
    from regard.model_pool import Router
    from regard.types import Caption


def explain(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, clips, scans, folders, patterns, or - for paths on standard input."
        ),
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

    For each file NAME.png (contact sheet, film strip or three-plane montage), NAME.webp,
    NAME.html and NAME.json, for scans also NAME.attention.nii.gz. A file that fails is one
    line on standard error; the others go on, and the status is 1.
    """
    if animation not in ("webp", "gif", "none"):
        raise typer.BadParameter(
            f"{animation!r} is none of webp, gif, none", param_hint="--animation"
        )
    sources, total = sources_of(files)
    folder = OutputFolder(out, "--out")
    from regard.captioner import Failure
    from regard.explain.outputs import OutputOptions, write_explanation
    from regard.model_pool import Router

    count = total or 1
    router = Router(model, device=device, files=count, covered=occlusion)
    rivals = Router(compare, device=device, files=count, covered=occlusion) if compare else None
    options = OutputOptions(occlusion, animation, smooth, grids)
    failed = False
    watch = Watch("explaining", total)
    results = router.caption_many(sources, report=watch.report, beam=beam, context=context)
    for result in watch.pass_on(results):
        if isinstance(result, Failure):
            failed = True
            complain(result.error)
            continue
        for notice in result.notices:
            complain(f"{result.file}: {notice}")
        rival = None
        if rivals is not None:
            other = _other(rivals, result.file, beam=beam, context=context)
            if isinstance(other, Failure):
                failed = True
                complain(f"--compare {compare}: {other.error}")
                continue
            rival = rivals.captioner(result.medium), other
        stem = folder.stem(result.file, options.suffixes(result.medium))
        try:
            write_explanation(router.captioner(result.medium), result, stem, options, rival=rival)
        except OSError as error:
            raise ConfigError(f"{stem}.* cannot be written: {error.strerror}.") from error
        typer.echo(f"{result.file}: {result.text}")
    raise typer.Exit(1 if failed else 0)


def _other(rivals: Router, file: str, *, beam: int, context: str) -> Caption | Failure:
    """Return what the second model says of a file, or why it says nothing."""
    (result,) = rivals.caption_many([file], beam=beam, context=context)
    return result
