"""`regard train`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from regard.cli.launch import LOST, end_with_launcher, how_to_go_on, launch, launched
from regard.cli.output import complain
from regard.errors import ConfigError, RankLost, needs_torch
from regard.util.distributed_env import check_fabric, ranks_in

if TYPE_CHECKING:
    from regard.config import Recipe

# Vectors of pictures, predictions of teachers, and hidden files, which are of systems.
_LEFT_BY_A_START = re.compile(r"annotations|teacher\d+|\..*", re.DOTALL)
_LINE_EVERY = 30.0  # seconds between lines of progress where there is no terminal for a bar


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
        str | None,
        typer.Option(help="Captions: CSV, JSONL, Karpathy or COCO JSON, tokens; or shards."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, clips or scans.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Go on from this model: folder, shipped model or hub id."),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Processes on this machine that train together.")
    ] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, help="Machines; MASTER_ADDR and NODE_RANK say which this is.")
    ] = 1,
) -> None:
    """Train a captioner from a recipe, or on your own pictures, clips or scans with --data."""
    from regard.config import Recipe

    if resume is not None:
        if recipe or settings or out or data or images or init:
            raise ConfigError(
                "--resume goes on in the run's own folder, with the recipe that it was started "
                "with; leave out the recipe, --set, --out, --data, --images and --init."
            )
        chosen = Recipe()
    else:
        recipe = recipe or (None if init else _fitting(data, images))
        chosen = _chosen(recipe, init, settings or [], data, images)

    def folder() -> Path:
        return resume or (_fresh(out) if out else _free(Path("runs") / chosen.name))

    world = ranks_in(os.environ)
    if world == 1 and devices * nodes > 1:
        check_fabric()
        place = folder()
        arguments = ["train", *([recipe] if recipe else [])]
        arguments += [part for setting in settings or [] for part in ("--set", setting)]
        given = {"--data": data, "--images": images, "--init": init}
        given[("--out", "--resume")[resume is not None]] = place
        arguments += [part for name, v in given.items() if v for part in (name, str(v))]
        raise typer.Exit(launch(arguments, devices, nodes, place))
    if world > 1 and devices * nodes not in (1, world):
        raise ConfigError(
            f"--devices {devices} on {nodes} machines, and the environment says that {world} "
            "processes train together. Leave out --devices and --nodes where torchrun starts them."
        )
    _train(chosen, folder, resume is not None)


def _train(recipe: Recipe, choose: Callable[[], Path], resume: bool) -> None:
    """Train as the rank that the environment names, or alone, and print where the best model is.

    Args:
        recipe: not read where the run is resumed.
        choose: returns the run's folder; asked once, since ranks must not choose different ones.
        resume: go on with the run in the folder.
    """
    with needs_torch("training a model"):
        from regard.training import train as train_captioner
        from regard.training.devices import connect

    if launched():
        end_with_launcher()
    folder = None
    try:
        with connect() as devices:
            folder = devices.broadcast(choose() if devices.rank == 0 else Path())
            with Watcher(Console(stderr=True, quiet=devices.rank > 0)) as watcher:
                best = train_captioner(
                    recipe, folder, resume=resume, report=watcher, devices=devices
                )
            if devices.rank == 0:
                typer.echo(str(best))
    except RankLost as error:
        if launched():
            raise typer.Exit(LOST) from None
        complain(error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if not launched():
            complain(f"stopped. {how_to_go_on(folder)}")
        raise typer.Exit(130) from None


def _fitting(data: str | None, images: Path | None) -> str:
    """Return the name of the recipe for one's own media."""
    from regard.data.shards import load_captions
    from regard.recipes import OWN

    if data is None:
        raise ConfigError(
            "nothing to train: name a recipe, or give your own media with --data captions.csv "
            "--images FOLDER."
        )
    return OWN[load_captions(data, str(images or "")).medium]


def _chosen(
    name: str | None,
    init: str | None,
    settings: list[str],
    data: str | None,
    images: Path | None,
) -> Recipe:
    """Return the recipe; where there is a model to go on from, there need be no name."""
    from regard.config.io import override

    recipe = _going_on(init, name) if init else _find(name or "")
    places: dict[str, str] = {}
    if data is not None:
        places = {"annotations": data, "images": ""}  # beside the captions
    if images is not None:
        places["images"] = str(images)
    return override(replace(recipe, data=replace(recipe.data, **places)), settings)


def _find(name: str) -> Recipe:
    from regard.recipes import FINE_TUNE, find_recipe

    if name == FINE_TUNE:
        raise ConfigError(
            f"the recipe {FINE_TUNE} has no encoder and no decoder: those are of the model that "
            "training goes on from. Name it with --init, or take another recipe."
        )
    return find_recipe(name)


def _going_on(init: str, name: str | None) -> Recipe:
    from regard.recipes import FINE_TUNE, find_recipe

    with needs_torch("training a model"):
        from regard.training.fine_tune import fine_tuning_recipe
    named = None if name in (None, FINE_TUNE) else find_recipe(name)
    return fine_tuning_recipe(init, named)


def _holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("last", "best", "log.jsonl"))


def _holds_other(folder: Path) -> bool:
    """Whether something is there that no start of a run leaves: it keeps only what is encoded."""
    if not folder.is_dir():
        return folder.exists()
    names = (path.name for path in folder.iterdir())
    return any(_LEFT_BY_A_START.fullmatch(name) is None for name in names)


def _fresh(folder: Path) -> Path:
    if _holds_a_run(folder):
        raise ConfigError(
            f"{folder} holds a run already. Go on with it by --resume {folder}, or name another "
            "folder."
        )
    if _holds_other(folder):
        raise ConfigError(
            f"--out {folder} is there and holds no run, and a run would mix with what it holds; "
            "wanted a new or empty folder. Name another one."
        )
    return folder


def _free(folder: Path) -> Path:
    """Return the folder, numbered where earlier runs, or other things, have the name."""
    free, count = folder, 1
    while _holds_a_run(free) or _holds_other(free):
        count += 1
        free = folder.with_name(f"{folder.name}-{count}")
    return free


class Watcher:
    """Shows a run on standard error: progress, scores, and a few captions as they change.

    On a terminal progress is a bar, elsewhere a line every half minute.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.fields[unit]} {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Watcher:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

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
        left = timedelta(seconds=round(seconds_left))
        text = f"{captions_per_second:.0f} captions/s, {parts}, {left} left"
        self._move("step", step, steps, text)

    def encoded(self, done: int, wanted: int) -> None:
        """Move the bar of the encoding, which goes when all is encoded."""
        self._move("view", done, wanted, "encoding, mirrored views too")
        if done >= wanted:
            self._bar.remove_task(self._tasks.pop("view"))
            self.message(f"encoded {wanted} views")

    def evaluated(
        self, epoch: int, scores: dict[str, float], samples: list[tuple[str, str]]
    ) -> None:
        """Print the scores of an epoch and a few captions."""
        # The loss is in nats, the scores are × 100.
        shown = (f"{name} {v:.3f}" if name == "loss" else f"{name} {v:.1f}"
                 for name, v in scores.items())  # fmt: skip
        self.message(f"epoch {epoch}: {', '.join(shown)}")
        for file, text in samples:
            self.message(f"  {file}: {text}")

    def _move(self, unit: str, done: int, wanted: int, text: str) -> None:
        if unit not in self._tasks:
            self._tasks[unit] = self._bar.add_task(text, total=wanted, unit=unit)
        self._bar.update(self._tasks[unit], completed=done, total=wanted, description=text)
        if self._bar.disable and time.monotonic() - self._last_line >= _LINE_EVERY:
            self._last_line = time.monotonic()
            self.message(f"{unit} {done}/{wanted}: {text}")

    def message(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
