"""`regard evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from regard.checkpoint.model_card import METRIC_LABELS
from regard.cli.files import check_record
from regard.cli.options import Beam, BlockNgram, Context, LengthPenalty, given
from regard.cli.output import complain, reporting, tables
from regard.errors import ConfigError, DatasetError
from regard.util.atomic import whole_file

if TYPE_CHECKING:
    from regard.metrics.split_evaluation import EvaluationResult
    from regard.reliability.calibration import Calibration

_RECORDED = frozenset({"scores", "settings", "captions"})  # in every record that `--json` wrote
_WIDTH_OF_A_FILE = 180  # the table is never cut where the output is no terminal
_CHANCES = {
    "probability": "the word's probability",
    "temperature": "by a temperature",
    "confidence": "confidence (scale and shift)",
}


def evaluate(
    annotations: Annotated[Path, typer.Option(help="Captions, as for `regard data check`.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, clips or scans.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "val",
    beam: Beam = 3,
    length_penalty: LengthPenalty = None,
    block_ngram: BlockNgram = None,
    context: Context = "expected",
    limit: Annotated[int, typer.Option(help="Only the first so many pictures; 0: all.")] = 0,
    tokenizer: Annotated[
        str, typer.Option(help="ptb (Java), python (the same tokens), or auto.")
    ] = "auto",
    present_only: Annotated[
        bool, typer.Option("--present-only", help="Leave out what has captions and no file.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Keep with the model how sure to be of its words."),
    ] = False,
    keep_decoding: Annotated[
        bool,
        typer.Option("--keep-decoding", help="Make the penalty and blocking the model's own."),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write scores and captions here.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Score one caption per picture of a split, beside the papers' rows.

    Below stands what the captions are like: length, variety, words without support, repetition.
    With --calibrate the model's words get a confidence (`regard caption --unsure`): two numbers in
    its config.json, fitted to these captions. With --keep-decoding it captions from then on with
    the length penalty and blocking of n-grams that were given; choose them on val.
    """
    from regard.data import load_dataset
    from regard.data.dataset import split_named
    from regard.media import medium_of
    from regard.metrics.split_evaluation import evaluate as evaluate_captioner
    from regard.model_pool import Router
    from regard.pipeline import store_decoding
    from regard.reliability.calibration import calibrate as fit
    from regard.reliability.confidence import store_confidence

    check_record(json_file, "--json", _RECORDED, [annotations])
    folder = _own_folder(model) if calibrate or keep_decoding else None
    dataset = load_dataset(annotations, images or "", present_only=present_only)
    split = split_named(split)
    items = dataset.split(split).items or dataset.items
    medium = medium_of(items[0].file) if items else "image"
    if folder is not None:
        _check_medium(folder, medium)
    captioner = Router(model, device=device).captioner(medium)
    options = given(length_penalty=length_penalty, block_ngram=block_ngram)
    decoding = replace(captioner.config.decoding, **options)
    with reporting() as report:
        result = evaluate_captioner(
            captioner,
            dataset,
            split=split,
            beam=beam,
            context=context,
            decoding=decoding,
            limit=limit,
            tokenizer=tokenizer,
            report=lambda done, total: report("captioning", done, total),
        )
    record, found, fault = result.to_json(), None, None
    if calibrate:
        try:
            found = fit(result.judged, split=split, beam=beam)
            record["calibration"] = found.to_json()
        except DatasetError as error:  # which must not cost the scores
            fault = error
    if json_file is not None:
        text = json.dumps(record, ensure_ascii=False, indent=1)
        with whole_file(json_file) as new:
            # A file name that is no UTF-8 cannot be written as it is.
            new.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    _print(result)
    if fault is not None:
        raise fault
    # The model changes only where nothing can fail any more.
    if folder is not None and keep_decoding:
        store_decoding(folder, decoding)
    if folder is not None and found is not None:
        store_confidence(folder, found.confidence)
        _print_calibration(found, folder)
    raise typer.Exit(1 if result.failures else 0)


def _print(result: EvaluationResult) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    console.print(_table(result))
    console.print(_statistics(result))
    for name, reason in result.scores.missing.items():
        complain(f"no {METRIC_LABELS[name]}: {reason}")
    for key, error in result.failures.items():
        complain(f"{key}: {error} Scored as an empty caption.")


def _own_folder(model: str | None) -> Path:
    """Return the folder of a model that may be changed.

    Raises:
        ConfigError: it lies in the store of what came from a hub, which is not ours to change.
    """
    from regard.pretrained import find_model

    folder = find_model(model)
    if (folder / "config.json").is_symlink():
        raise ConfigError(
            f"{folder} holds a link to what came from a hub. Copy it (cp -rL) and change the copy."
        )
    return folder


def _check_medium(folder: Path, medium: str) -> None:
    from regard.checkpoint.folder import inspect_checkpoint

    if (own := inspect_checkpoint(folder)["medium"]) != medium:
        raise ConfigError(
            f"{folder} is a model of {own}s, and was given {medium}s: what it says of "
            f"them is no measure for its own. Give it {own}s."
        )


def _print_calibration(found: Calibration, folder: Path) -> None:
    table = Table("chance of support", "calibration error", "log loss", title="by cross-validation")
    for name, label in _CHANCES.items():
        table.add_row(label, f"{found.errors[name]:.3f}", f"{found.losses[name]:.3f}")
    console = tables()
    console.print(table)
    made = found.confidence
    text = (f"{folder}: confidence kept, scale {made.scale:.3f}, shift {made.shift:.3f}, "
            f"of {made.words} words in {made.captions} captions")  # fmt: skip
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _statistics(result: EvaluationResult) -> Table:
    s = result.statistics
    used = f"{s.words_used}" + (f" of {s.vocabulary}" if s.vocabulary else "")
    cells = {
        "words": f"{s.mean_length:.1f}",
        "distinct": f"{s.distinct} of {s.captions}",
        "words used": used,
        "unsupported": f"{s.unsupported:.2f}",
        "of words": f"{s.unsupported_words:.1%}",
        "of things": f"{s.unsupported_things:.1%}",
        "captions with such": f"{s.unsupported_captions:.1%}",
        "n-gram twice": f"{s.repeated_ngram:.1%}",
        "word twice": f"{s.repeated_word:.1%}",
    }
    table = Table("", *cells, title="what the captions are like")
    table.add_row(result.settings["model"], *(c.replace("nan%", "–") for c in cells.values()))
    return table


def _table(result: EvaluationResult) -> Table:
    from regard.metrics.split_evaluation import FLICKR8K

    settings = result.settings
    names = [n for n in METRIC_LABELS if n != "spice" or n in result.scores.values]
    table = Table("", *(METRIC_LABELS[n] for n in names), "conditions", title="scores × 100")
    references = settings["references"]
    if isinstance(references, list):
        references = "–".join(map(str, references))
    conditions = (
        f"{settings['split']} ({settings['pictures']}) · {settings['tokenizer']} · "
        f"beam {settings['beam']} · {references} refs"
        + ("" if settings["context"] == "expected" else f" · {settings['context']} location")
        + (f" · length penalty {p:g}" if (p := settings["length_penalty"]) else "")
        + (f" · no {n}-gram twice" if (n := settings["block_ngram"]) else "")
    )
    values = result.scores.values
    table.add_row(settings["model"], *_cells(values, names), conditions, end_section=True)
    for row in FLICKR8K:
        table.add_row(row.name, *_cells(row.scores, names), f"Flickr8k {row.conditions}")
    return table


def _cells(values: dict[str, float], names: list[str]) -> list[str]:
    return [f"{values[name]:.1f}" if name in values else "–" for name in names]
