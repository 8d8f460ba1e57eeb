"""`regard explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli import options
from regard.cli.options import option
from regard.cli.output import ItemFaults, OutputFolder, complain, say, sources_of
from regard.cli.progress import FileProgress

if TYPE_CHECKING:
    from regard.captioner import Captioner, Failure
    from regard.model_pool import ModelPool
    from regard.types import Caption


def explain(
    files: options.Files,
    out: Annotated[Path, option("Folder for the results.")],
    model: options.Model = None,
    compare: Annotated[str | None, option("A second model, shown beside the first.")] = None,
    beam: options.Beam = 3,
    context: options.Context = "expected",
    occlusion: Annotated[
        bool, option("Cover each cell and measure how every word's probability falls.")
    ] = True,
    animation: Annotated[str, option("webp, gif or none.")] = "webp",
    smooth: Annotated[bool, option("Smooth the maps; else raw cells.")] = True,
    grids: Annotated[bool, option("Also write the raw weights as .npy.", "--grids")] = False,
    device: options.Device = options.AUTO,
) -> None:
    """Show where the model looked for every word: sheet, animation, page and numbers.

    For each file NAME.png (contact sheet, film strip or three-plane montage), NAME.webp,
    NAME.html and NAME.json, for scans also NAME.attention.nii.gz. A file that fails is reported
    on standard error; the others are still processed, and the status is 1.
    """
    if animation not in ("webp", "gif", "none"):
        raise typer.BadParameter(
            f"{animation!r} is not one of webp, gif, none", param_hint="--animation"
        )
    sources, total = sources_of(files)
    folder = OutputFolder(out, "--out")
    from regard.captioner import Failure
    from regard.explain.outputs import OutputOptions, write_explanation
    from regard.model_pool import ModelPool

    device = options.placed(device)

    def load(name: str | None) -> ModelPool:
        return ModelPool(name, device=device, files=total or 1, covered=occlusion)

    router, rivals = load(model), load(compare) if compare else None
    outputs = OutputOptions(occlusion, animation, smooth, grids)
    faults = ItemFaults()
    progress = FileProgress("explaining", total)
    search = {"beam": beam, "context": context}
    for result in progress.watch(router.caption_many(sources, report=progress.report, **search)):
        if isinstance(result, Failure):
            faults.tell(result.error)
            continue
        for notice in result.notices:
            complain(f"{result.file}: {notice}")
        rival = None
        if rivals is not None:
            rival = _rival(rivals, result, search)
            if isinstance(rival, Failure):
                faults.tell(f"--compare {compare}: {rival.error}")
                continue
        stem = folder.stem(result.file, outputs.suffixes(result.medium))
        with faults.of(result.file, f"{stem}.*"):
            write_explanation(router.captioner(result.medium), result, stem, outputs, rival=rival)
        say(f"{result.file}: {result.text}")
    raise typer.Exit(1 if faults.found else 0)


def _rival(
    rivals: ModelPool, first: Caption, search: dict[str, int | str]
) -> tuple[Captioner, Caption] | Failure:
    """Return the second model and its caption of the same file, or why it failed."""
    from regard.captioner import Failure

    (result,) = rivals.caption_many([first.file], **search)
    return result if isinstance(result, Failure) else (rivals.captioner(first.medium), result)
