"""`regard caption`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli.files import OutputFolder, sources_of
from regard.cli.options import Beam, BlockNgram, Context, LengthPenalty, MaxLength, given
from regard.cli.output import Watch, complain, json_line
from regard.errors import ConfigError

if TYPE_CHECKING:
    from regard.captioner import Captioner
    from regard.types import Caption


def caption(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, clips, scans, folders, patterns, or - for paths on standard input."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    beam: Beam = 3,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    no_alpha: Annotated[bool, typer.Option("--no-alpha", help="Leave the maps out.")] = False,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for a drawing of each caption's attention.")
    ] = None,
    unsure: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Mark words whose chance to be right is below this (of a calibrated model).",
        ),
    ] = None,
    max_length: MaxLength = None,
    length_penalty: LengthPenalty = None,
    block_ngram: BlockNgram = None,
    n_best: Annotated[int, typer.Option(help="Captions per file.")] = 1,
    context: Context = "expected",
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Caption pictures, clips and scans: `path: caption`, or JSON lines.

    What its reader must know of a caption, such as that a scan's is not for clinical use, is a
    line on standard error. So is a file that fails; the others go on, and the status is 1.
    `--unsure 0.5` writes `red(?)` where the chance that people would say so is below a half, and
    in JSON adds `unsure`, the numbers of such words, counted from 0.
    """
    sources, total = sources_of(files)
    sheets = OutputFolder(explain, "--explain") if explain else None
    from regard.captioner import Failure
    from regard.model_pool import ModelPool

    router = ModelPool(model, device=device, files=total or 0)
    watch = Watch("captioning", total)
    results = router.caption_many(
        sources,
        report=watch.report,
        keep_pixels=sheets is not None,
        batch_size=batch_size,
        beam=beam,
        n_best=n_best,
        context=context,
        **given(max_length=max_length, length_penalty=length_penalty, block_ngram=block_ngram),
    )
    failed = False
    for result in watch.pass_on(results):
        if isinstance(result, Failure):
            failed = True
            complain(result.error)
            if json_lines:
                json_line({"file": result.file, "error": str(result.error)})
            continue
        if unsure is not None:
            _check_calibrated(router.captioner(result.medium))
        for notice in result.notices:
            complain(f"{result.file}: {notice}")
        _write(result, json_lines, alpha=not no_alpha, unsure=unsure)
        if sheets is not None:
            _draw(result, sheets)
    raise typer.Exit(1 if failed else 0)


def _check_calibrated(captioner: Captioner) -> None:
    if captioner.confidence is None:
        raise ConfigError(
            f"--unsure was given, and the model {captioner.name!r} was not calibrated for such "
            "files. `regard evaluate --calibrate` does it, with captions that people wrote."
        )


def _write(result: Caption, json_lines: bool, *, alpha: bool, unsure: float | None) -> None:
    from regard.reliability.confidence import unsure_text, unsure_words

    if json_lines:
        marks = {} if unsure is None else {"unsure": list(unsure_words(result, unsure))}
        json_line(result.to_json(alpha=alpha) | marks)
        return
    for one in (result, *result.n_best):
        text = one.text if unsure is None else unsure_text(one, unsure)
        typer.echo(f"{result.file}: {text}")


def _draw(result: Caption, folder: OutputFolder) -> None:
    from regard.explain import save_figure

    stem = folder.stem(result.file, (".png",))
    path = stem.with_name(stem.name + ".png")  # with_suffix would cut a name at its last dot
    try:
        save_figure(result.figure(), path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
