"""`regard train`: chooses the recipe and the folder, and trains here or in several ranks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli import options
from regard.cli.launch import LOST, end_with_launcher, how_to_resume, launch, launched
from regard.cli.options import argument, option
from regard.cli.output import complain, say
from regard.cli.progress import TrainingProgress
from regard.errors import ConfigError, RankLost, needs_torch
from regard.util.child_python import check_fabric, ranks_in

if TYPE_CHECKING:
    from regard.config import Recipe

# Annotations of pictures, predictions of teachers, and hidden files, which systems make.
_LEFT_BY_A_START = re.compile(r"annotations|teacher\d+|\..*", re.DOTALL)


def train(
    recipe: Annotated[str | None, argument("A recipe's path, or a shipped one's name.")] = None,
    settings: Annotated[
        list[str] | None, option("section.key=value of the recipe.", "--set")
    ] = None,
    out: Annotated[Path | None, option("The run's folder.")] = None,
    resume: Annotated[Path | None, option("Resume the run in this folder.")] = None,
    data: Annotated[
        str | None, option("Captions: CSV, JSONL, Karpathy or COCO JSON, tokens; or shards.")
    ] = None,
    images: options.Images = None,
    encoder: Annotated[
        str | None, option("Encoder: clip-vit-b16, lite0, lite2 or timm:NAME; else the recipe's.")
    ] = None,
    init: Annotated[str | None, option("Model to start from: folder, name or hub id.")] = None,
    device: options.Device = options.AUTO,
    precision: Annotated[
        str | None, option("fp32, bf16, fp16, or auto; by default the recipe's.")
    ] = None,
    batch_size: Annotated[
        str | None,
        option("Captions per step; auto: the recipe's, in more passes where memory is full."),
    ] = None,
    devices: Annotated[int, option("Processes on this machine that train together.", min=1)] = 1,
    nodes: Annotated[
        int, option("Machines; MASTER_ADDR and NODE_RANK say which this is.", min=1)
    ] = 1,
) -> None:
    """Train a captioner from a recipe, or on your own pictures, clips or scans with --data."""
    from regard.config import Recipe

    fits, settings = batch_size == options.AUTO, settings or []
    if batch_size and not fits:
        settings.append(f"training.batch_size={batch_size}")
    if resume is not None and (recipe or settings or out or data or images or encoder or init):
        raise ConfigError(
            "--resume continues in the run's own folder with its own recipe. Leave out the "
            "recipe, --set, --out, --data, --images, --encoder, --init and a number for "
            "--batch-size."
        )
    recipe = recipe or (None if init or resume else _recipe_for(data, images))
    chosen = Recipe() if resume else _chosen(recipe, init, encoder, settings, data, images)

    def folder() -> Path:
        return resume or (_checked(out) if out else _unused(Path("runs") / chosen.name))

    world = ranks_in(os.environ)
    if world == 1 and devices * nodes > 1:
        check_fabric()
        place = folder()
        given = {"--data": data, "--images": images, "--encoder": encoder, "--init": init}
        given |= {"--device": device, "--precision": precision}
        given["--batch-size"] = options.AUTO if fits else None
        given["--resume" if resume else "--out"] = place
        pairs = [*(("--set", setting) for setting in settings), *given.items()]
        arguments = [part for name, v in pairs if v for part in (name, str(v))]
        arguments = ["train", *([recipe] if recipe else []), *arguments]
        raise typer.Exit(launch(arguments, devices, nodes, place))
    _check_ranks(world, devices, nodes)
    more = {"resume": resume is not None, "precision": precision or "", "fit_memory": fits}
    _train(chosen, folder, device, more)


def _check_ranks(world: int, devices: int, nodes: int) -> None:
    """Reject a number of devices that contradicts the environment."""
    if world > 1 and devices * nodes not in (1, world):
        raise ConfigError(
            f"--devices {devices} on {nodes} machines, but the environment says that {world} "
            "processes train together. Leave out --devices and --nodes where torchrun starts them."
        )


def _train(recipe: Recipe, choose: Callable[[], Path], device: str, more: dict[str, Any]) -> None:
    """Train as the rank given by the environment, or alone; print the folder of the best model.

    Args:
        recipe: ignored if the run is resumed.
        choose: returns the run's folder; only rank 0 calls it, so that all ranks use the same.
        device: where it computes.
        more: other arguments of `regard.train`.
    """
    from rich.console import Console

    with needs_torch("training a model"):
        from regard.training import train as train_captioner
        from regard.training.devices import connect

    if launched():
        end_with_launcher()
    folder = None
    try:
        with connect(device) as devices:
            folder = devices.broadcast(choose() if devices.rank == 0 else Path())
            with TrainingProgress(Console(stderr=True, quiet=devices.rank > 0)) as progress:
                best = train_captioner(recipe, folder, report=progress, devices=devices, **more)
            if devices.rank == 0:
                say(best)
    except RankLost as error:
        if launched():
            raise typer.Exit(LOST) from None
        complain(error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if not launched():
            complain(f"stopped. {how_to_resume(folder)}")
        raise typer.Exit(130) from None


def _recipe_for(data: str | None, images: Path | None) -> str:
    """Return the name of the recipe for the medium of a data set."""
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
    encoder: str | None,
    settings: list[str],
    data: str | None,
    images: Path | None,
) -> Recipe:
    """Return the recipe with its changes; with --init it needs no name."""
    from regard.recipes import FINE_TUNE, find_recipe, override, with_encoder

    if encoder and init:
        raise ConfigError(
            f"--encoder {encoder} names a new encoder, and --init {init} uses that of a "
            "trained model. Leave one of them out."
        )
    named = None if name in (None, FINE_TUNE) else find_recipe(name)
    if init:
        with needs_torch("training a model"):
            from regard.training.fine_tune import fine_tuning_recipe
        recipe = fine_tuning_recipe(init, named)
    elif named is not None:
        recipe = named
    else:
        raise ConfigError(
            f"the recipe {FINE_TUNE} has no encoder and no decoder: those come from another "
            "model. Name it with --init, or use another recipe."
        )
    if encoder:
        recipe = with_encoder(recipe, encoder)
    places: dict[str, str] = {}
    if data is not None:
        places = {"annotations": data, "images": ""}  # "": beside the captions
    if images is not None:
        places["images"] = str(images)
    return override(replace(recipe, data=replace(recipe.data, **places)), settings)


def _holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("last", "best", "log.jsonl"))


def _holds_other(folder: Path) -> bool:
    """Return whether a folder holds more than a run that was stopped early leaves there."""
    if not folder.is_dir():
        return folder.exists()
    names = (path.name for path in folder.iterdir())
    return any(_LEFT_BY_A_START.fullmatch(name) is None for name in names)


def _checked(folder: Path) -> Path:
    """Return the folder if a new run may use it, else raise."""
    if _holds_a_run(folder):
        raise ConfigError(
            f"{folder} holds a run already. Continue it with --resume {folder}, or name another "
            "folder."
        )
    if _holds_other(folder):
        raise ConfigError(
            f"--out {folder} exists and holds no run, and a run would mix with its files. Name a "
            "new or empty folder."
        )
    return folder


def _unused(folder: Path) -> Path:
    """Return the folder, with a number if earlier runs or other files have its name."""
    unused, count = folder, 1
    while _holds_a_run(unused) or _holds_other(unused):
        count += 1
        unused = folder.with_name(f"{folder.name}-{count}")
    return unused
