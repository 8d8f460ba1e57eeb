"""`regard teach` and `regard concepts`: words that a model learns from a few pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from regard.cli import options
from regard.cli.options import argument, option
from regard.cli.output import complain, json_line, print_table, say
from regard.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from regard.captioner import Captioner
    from regard.model.concepts import Lesson

_Model = Annotated[str, argument("Folder, shipped model or hub id of a model that points.")]


def concepts(model: _Model, as_json: options.JsonLines = False) -> None:
    """List the concepts that a model can name from what it looks at."""
    from regard.checkpoint.components import concepts_of
    from regard.checkpoint.folder import load_checkpoint
    from regard.pretrained import find_model

    checkpoint = load_checkpoint(find_model(model))
    bank = checkpoint.arrays("decoder.pointer.", ("forms", "threshold"))
    if not bank:
        raise ConfigError(
            f"{checkpoint.path} has no pointer (decoder.concepts = 0), so it has no concepts. Use "
            "a model that points."
        )
    found = concepts_of(bank["forms"], bank["threshold"], checkpoint.vocabulary)
    if as_json:
        for one in found:
            forms = {"word": one.word, "plural": one.plural}
            json_line(forms | {"threshold": round(one.threshold, 4)})
        return
    table = Table("word", "plural", "threshold")
    for one in found:
        many = "–" if one.plural == one.word else one.plural
        table.add_row(one.word, many, f"{one.threshold:.2f}")
    print_table(table)


def teach(
    model: _Model,
    word: Annotated[str, option("The word to teach; may hold spaces.")] = "",
    images: Annotated[
        Path | None,
        option("Folder of pictures of the word; without --word, of a folder for each word."),
    ] = None,
    forget: Annotated[list[str] | None, option("A word to take away; may be repeated.")] = None,
    out: Annotated[
        Path | None, option("Folder for the changed model; by default MODEL is changed.")
    ] = None,
    device: options.Device = options.AUTO,
    as_json: options.JsonLines = False,
) -> None:
    """Teach a model words from a few pictures of each, without training.

    The model then names them where it looks at something alike. Prints how well each word is told
    from others.
    """
    from regard.captioner import Captioner
    from regard.errors import needs_torch
    from regard.pretrained import find_model

    lessons = _lessons(word, images, forget)
    source = find_model(model)
    place = _place(source, model, out)
    with needs_torch("teaching a model"):
        from regard.model.concepts import pointer_of
    captioner = Captioner.load(source, device=device)
    pointer_of(captioner.decoder, captioner.name)
    for gone in forget or ():
        captioner.forget(gone)
    failed = False
    for taught, pictures in lessons:
        lesson = captioner.teach(taught, pictures)
        failed |= _report(lesson, pictures, as_json)
    _save(captioner, source, place)
    if failed:
        raise typer.Exit(1)


def _lessons(
    word: str, images: Path | None, forget: list[str] | None
) -> list[tuple[str, list[str]]]:
    """Return each word to teach with its pictures."""
    from regard.media.find import find_files

    if images is None:
        if word or not forget:
            raise typer.BadParameter("teaching takes --images DIR, and --forget takes a word.")
        return []
    if not images.is_dir():
        raise typer.BadParameter(f"no folder {images}", param_hint="--images")
    folders = (
        {word: images} if word else {p.name: p for p in sorted(images.iterdir()) if p.is_dir()}
    )
    if not folders:
        raise typer.BadParameter(
            f"{images} holds no folder. Give --word, or a folder for each word, named by it",
            param_hint="--images",
        )
    return [
        (name, list(find_files([str(folder)], report=complain))) for name, folder in folders.items()
    ]


def _place(source: Path, model: str, out: Path | None) -> Path:
    """Return the folder that the changed model is written to.

    Raises:
        ConfigError: it holds another model, a training that can be resumed, or a shipped model.
    """
    from regard.pretrained import shipped_models

    place = source if out is None else out
    if place.resolve() == source.resolve():
        if not Path(model).is_dir() or source in shipped_models().values():
            raise ConfigError(
                f"{model!r} is not a folder of your own, so it is not changed. Name a folder for "
                "the changed model: --out M2."
            )
        if (source / "training.pt").exists():
            raise ConfigError(
                f"{source} holds the state of a training, which the changed model would not fit. "
                "Teach its best model, or name another folder with --out."
            )
    elif place.exists() and any(place.iterdir()):
        raise ConfigError(f"{place} exists and is not empty. Name another folder, or remove it.")
    return place


def _report(lesson: Lesson, pictures: list[str], as_json: bool) -> bool:
    """Print a report; return whether a picture could not be read."""
    for _, error in lesson.failures:
        complain(error)
    unread = {file for file, _ in lesson.failures}
    read = [file for file in pictures if file not in unread]
    odd = [read[i] for i in lesson.odd]
    if as_json:
        json_line(lesson.to_json() | {"odd": odd})
        return bool(lesson.failures)
    near = ", ".join(f"{word} {value:.2f}" for word, value in lesson.neighbours) or "none"
    named = "" if lesson.named is None else f"; {lesson.named:.0%} named by the others"
    say(f"{lesson.word}: {lesson.pictures} pictures{named}; nearest: {near}")
    if odd:
        more = ", ..." if len(odd) > 3 else ""
        complain(
            f"{len(odd)} pictures of {lesson.word!r} differ from the others: "
            f"{', '.join(odd[:3])}{more}. Check what they show."
        )
    if not lesson.separate:
        complain(
            f"{lesson.word!r} is hard to tell from other things, so it will be named where it is "
            "not. Give more pictures, in which it is large and the surroundings vary."
        )
    return bool(lesson.failures)


def _save(captioner: Captioner, source: Path, place: Path) -> None:
    """Write the changed model, and its graphs again if it had some."""
    from regard.checkpoint.components import read_manifest
    from regard.checkpoint.folder import load_checkpoint
    from regard.errors import MissingExtra
    from regard.export.write_graphs import WEIGHTS, export_model, weight_locations

    checkpoint = load_checkpoint(source)
    manifest = read_manifest(checkpoint)
    stored = weight_locations(source / WEIGHTS)["decoder.embedding.weight"].dtype
    captioner.save(place, half=stored == "F16")
    if manifest is None:
        return
    reason = "its encoder was quantised, which needs --int8 and --calibrate"
    rounded = manifest.precision != "float32"
    if not rounded or checkpoint.encoder_file is not None:  # that file serves an exact graph, too
        try:
            export_model(place)
        except (MissingExtra, CheckpointError) as error:
            reason = str(error)
        else:
            if rounded:
                complain(
                    f"{place} computes its encoder exactly, which takes longer than in 8 bits. For "
                    f"those: regard export {place} --int8 --calibrate DIR, a folder of pictures."
                )
            return
    complain(f"{place} runs on torch until it is exported: regard export {place} ({reason}).")
