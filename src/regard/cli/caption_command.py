"""`regard caption`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli import options
from regard.cli.options import option
from regard.cli.output import (
    ItemFaults,
    OutputFolder,
    complain,
    json_line,
    say,
    sources_of,
    suggest_fast,
)
from regard.cli.progress import FileProgress
from regard.errors import ConfigError

if TYPE_CHECKING:
    from regard.captioner import Captioner
    from regard.types import Caption


def caption(
    files: options.Files,
    model: options.Model = None,
    beam: options.Beam = 3,
    json_lines: options.JsonLines = False,
    no_alpha: Annotated[bool, option("Leave out the maps.", "--no-alpha")] = False,
    explain: Annotated[Path | None, option("Folder for drawings of the attention.")] = None,
    unsure: Annotated[
        float | None,
        option("Mark words with a confidence below this; needs a calibrated model.", min=0, max=1),
    ] = None,
    max_length: options.MaxLength = None,
    length_penalty: options.LengthPenalty = None,
    block_ngram: options.BlockNgram = None,
    n_best: Annotated[int, option("Captions per file.")] = 1,
    context: options.Context = "expected",
    batch_size: options.BatchSize = options.AUTO,
    device: options.Device = options.AUTO,
) -> None:
    """Caption pictures, clips and scans: `path: caption`, or JSON lines.

    Notices about a caption, such as that a scan's is not for clinical use, are lines on standard
    error. So is a file that fails; the others go on, and the status is 1. `--unsure 0.5` writes
    `red(?)` where the chance that people would say so is below a half, and adds `unsure` to the
    JSON, the numbers of such words, counted from 0.
    """
    sources, total = sources_of(files)
    drawings = OutputFolder(explain, "--explain") if explain else None
    from regard.captioner import Failure
    from regard.model_pool import ModelPool

    device = options.placed(device)
    suggest_fast(model, total or 0)
    router = ModelPool(model, device=device, files=total or 0)
    progress = FileProgress("captioning", total)
    results = router.caption_many(
        sources,
        report=progress.report,
        keep_pixels=drawings is not None,
        batch_size=options.items_of(batch_size, device),
        beam=beam,
        n_best=n_best,
        context=context,
        **options.given(
            max_length=max_length, length_penalty=length_penalty, block_ngram=block_ngram
        ),
    )
    faults = ItemFaults()
    for result in progress.watch(results):
        if isinstance(result, Failure):
            faults.tell(result.error)
            if json_lines:
                json_line({"file": result.file, "error": str(result.error)})
            continue
        if unsure is not None:
            _check_calibrated(router.captioner(result.medium))
        for notice in result.notices:
            complain(f"{result.file}: {notice}")
        _write(result, json_lines, alpha=not no_alpha, unsure=unsure)
        if drawings is not None:
            _draw(result, drawings, faults)
    raise typer.Exit(1 if faults.found else 0)


def _check_calibrated(captioner: Captioner) -> None:
    if captioner.confidence is None:
        raise ConfigError(
            f"--unsure needs a calibrated model, and {captioner.name!r} was not calibrated for "
            "such files. Run `regard evaluate --calibrate` with captions that people wrote."
        )


def _write(result: Caption, json_lines: bool, *, alpha: bool, unsure: float | None) -> None:
    from regard.reliability.confidence import unsure_text, unsure_words

    if json_lines:
        marks = {} if unsure is None else {"unsure": list(unsure_words(result, unsure))}
        json_line(result.to_json(alpha=alpha) | marks)
        return
    for one in (result, *result.n_best):
        text = one.text if unsure is None else unsure_text(one, unsure)
        say(f"{result.file}: {text}")


def _draw(result: Caption, folder: OutputFolder, faults: ItemFaults) -> None:
    from regard.explain import save_figure

    stem = folder.stem(result.file, (".png",))
    path = stem.with_name(stem.name + ".png")  # with_suffix would cut a name at its last dot
    with faults.of(result.file, path):
        save_figure(result.figure(), path)
