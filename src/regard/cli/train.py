"""`regard train`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from regard.config import Recipe


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's path, or the name of a shipped one.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, laid over the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Captions: CSV, JSONL, Karpathy or COCO JSON, tokens.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures.")] = None,
) -> None:
    """Train a captioner from a recipe, or on your own pictures with --data and --images."""
    from regard.config import Recipe
    from regard.errors import ConfigError
    from regard.training import train as train_captioner

    if resume is not None:
        if recipe or settings or data or images:
            raise ConfigError(
                "--resume goes on with the recipe that the run was started with; leave out the "
                "recipe, --set, --data and --images."
            )
        chosen, folder = Recipe(), resume
    else:
        chosen = _chosen(recipe, settings or [], data, images)
        folder = out or Path("runs") / chosen.name
    with _Watcher() as watcher:
        best = train_captioner(chosen, folder, resume=resume is not None, report=watcher)
    typer.echo(str(best))


def _chosen(
    name: str | None, settings: list[str], data: Path | None, images: Path | None
) -> Recipe:
    from regard.config import override
    from regard.errors import ConfigError
    from regard.recipes import find_recipe

    if name is None and data is None:
        raise ConfigError(
            "nothing to train: name a recipe, or give your own pictures with --data captions.csv "
            "--images FOLDER."
        )
    recipe = find_recipe(name or "own-data")
    if data is not None:
        paths = {"annotations": str(data), "images": str(images or data.parent)}
        recipe = replace(recipe, data=replace(recipe.data, **paths))
    return override(recipe, settings)


class _Watcher:
    """Shows a run on standard error: a bar, scores, and a few captions as they change."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> _Watcher:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(
        self,
        step: int,
        steps: int,
        captions_per_second: float,
        losses: dict[str, float],
        seconds_left: float,
    ) -> None:
        """Move the bar."""
        parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
        left = math.ceil(seconds_left / 60)
        text = f"{captions_per_second:.0f} captions/s, {parts}, {left} min left"
        if self._task is None:
            self._task = self._progress.add_task(text, total=steps)
        self._progress.update(self._task, completed=step, total=steps, description=text)

    def evaluated(
        self, epoch: int, scores: dict[str, float], samples: list[tuple[str, str]]
    ) -> None:
        """Print the scores of an epoch and a few captions."""
        shown = ", ".join(f"{name} {value:.1f}" for name, value in scores.items() if name != "loss")
        self._console.print(f"epoch {epoch}: {shown}, loss {scores['loss']:.3f}", highlight=False)
        for file, text in samples:
            self._console.print(f"  {file}: {text}", highlight=False, markup=False)

    def message(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False)
