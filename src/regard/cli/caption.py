"""`regard caption`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from regard.captioner import Captioner, Failure
    from regard.types import Caption

_PROGRESS_FROM = 10  # fewer pictures are done before a bar can be read

Files = Annotated[
    list[str], typer.Argument(help="Pictures, folders, patterns, or - for paths on standard input.")
]
Model = Annotated[
    str | None, typer.Option(help="Folder, shipped model or hub id; without it the shipped one.")
]


def caption(
    files: Files,
    model: Model = None,
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 3,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    no_alpha: Annotated[bool, typer.Option("--no-alpha", help="Leave the maps out.")] = False,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for a contact sheet of each picture.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Longest caption in words.")] = 20,
    length_penalty: Annotated[
        float, typer.Option(help="Divide log p by length to this power.")
    ] = 0.0,
    n_best: Annotated[int, typer.Option(help="Captions per picture.")] = 1,
    context: Annotated[
        str, typer.Option(help="Hard attention: expected, sample or argmax.")
    ] = "expected",
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Caption pictures: `path: caption`, or JSON lines."""
    from regard.captioner import Captioner, Failure
    from regard.media import find_files

    found = list(find_files(files, stdin=sys.stdin))
    if not found:
        raise typer.BadParameter(f"no pictures in {', '.join(files)}", param_hint="FILES")
    captioner = _load(Captioner, model, device)
    results = captioner.caption_many(
        found,
        batch_size=batch_size,
        beam=beam,
        max_length=max_length,
        length_penalty=length_penalty,
        n_best=n_best,
        context=context,
    )
    names = SheetNames(explain) if explain else None
    failed = 0
    for result in _watched(results, len(found)):
        if isinstance(result, Failure):
            failed += 1
            _write_failure(result, json_lines)
            continue
        _write(result, json_lines, alpha=not no_alpha)
        if names is not None:
            _draw(result, names.next(result.file))
    raise typer.Exit(1 if failed else 0)


class SheetNames:
    """Gives every picture a sheet of its own, also where two share a name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()

    def next(self, file: str) -> Path:
        """Return the path of a picture's sheet."""
        stem, count = Path(file).stem or "picture", 1
        name = stem
        while name in self._taken:
            count += 1
            name = f"{stem}-{count}"
        self._taken.add(name)
        return self._folder / f"{name}.png"


def _load(kind: type[Captioner], model: str | None, device: str) -> Captioner:
    from regard.pretrained import find_model

    return kind.load(find_model(model), device=device)


def _watched(results: Iterator[Caption | Failure], total: int) -> Iterator[Caption | Failure]:
    console = Console(stderr=True)
    if total < _PROGRESS_FROM or not console.is_terminal:
        yield from results
        return
    yield from track(results, "captioning", total=total, console=console, transient=True)


def _write(result: Caption, json_lines: bool, *, alpha: bool) -> None:
    if json_lines:
        _line(result.to_json(alpha=alpha))
        return
    typer.echo(f"{result.file}: {result.text}")
    for other in result.n_best:
        typer.echo(f"{result.file}: {other.text}")


def _write_failure(result: Failure, json_lines: bool) -> None:
    typer.echo(f"regard: {result.error}", err=True)
    if json_lines:
        _line({"file": result.file, "error": str(result.error)})


def _line(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, ensure_ascii=False))


def _draw(result: Caption, path: Path) -> None:
    from regard.explain import save_figure

    save_figure(result.figure(), path)
