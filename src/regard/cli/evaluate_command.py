"""`regard evaluate` and `regard faithfulness`: scores of captions and of attention on a split."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from regard.checkpoint.model_card import METRIC_LABELS
from regard.cli import options
from regard.cli.options import option
from regard.cli.output import check_record, complain, open_dataset, print_table, tables, write_text
from regard.cli.progress import reporting
from regard.errors import ConfigError, DatasetError
from regard.util.shown_text import printable

if TYPE_CHECKING:
    from regard.data.dataset import CaptionDataset
    from regard.faithfulness.experiments import Faithfulness
    from regard.metrics.split_evaluation import EvaluationResult
    from regard.reliability.calibration import Calibration

_SCORE_KEYS = frozenset({"scores", "settings", "captions"})  # of every record of `evaluate`
_FAITHFULNESS_KEYS = frozenset({"settings", "deletion", "insertion", "agreement"})
_PIPE_WIDTH = 180  # of the table of scores, so that it is never cut
_CHANCES = {
    "probability": "the word's probability",
    "temperature": "by a temperature",
    "confidence": "confidence (scale and shift)",
}


def evaluate(
    annotations: options.Annotations,
    images: options.Images = None,
    model: options.Model = None,
    split: options.Split = "val",
    beam: options.Beam = 3,
    length_penalty: options.LengthPenalty = None,
    block_ngram: options.BlockNgram = None,
    context: options.Context = "expected",
    limit: options.Limit = 0,
    tokenizer: Annotated[
        str, option("auto, ptb (Java), python (the same tokens) or model.")
    ] = "auto",
    present_only: Annotated[bool, option("Skip missing files.", "--present-only")] = False,
    calibrate: Annotated[bool, option("Fit and store word confidences.", "--calibrate")] = False,
    keep_decoding: Annotated[
        bool, option("Store penalty and blocking as the model's defaults.", "--keep-decoding")
    ] = False,
    json_file: options.JsonFile = None,
    device: options.Device = options.AUTO,
) -> None:
    """Score one caption per picture of a split, next to published scores.

    A second table describes the captions: length, variety, words without support, repetition.
    --calibrate gives the model's words a confidence (`regard caption --unsure`): two numbers in
    its config.json, fitted to these captions. --keep-decoding stores the given length penalty and
    n-gram blocking as the model's defaults; choose them on val.
    """
    from regard.data.dataset import split_named
    from regard.metrics.split_evaluation import evaluate as evaluate_captioner
    from regard.model_pool import ModelPool

    check_record(json_file, "--json", _SCORE_KEYS, [annotations])
    folder = _own_folder(model) if calibrate or keep_decoding else None
    dataset = open_dataset(annotations, images, present_only=present_only)
    split = split_named(split)
    medium = _medium(dataset, split, folder)
    captioner = ModelPool(model, device=options.placed(device)).captioner(medium)
    penalties = options.given(length_penalty=length_penalty, block_ngram=block_ngram)
    decoding = replace(captioner.config.decoding, **penalties)
    with reporting() as report:
        result = evaluate_captioner(
            captioner, dataset, split=split, beam=beam, context=context, decoding=decoding,
            limit=limit, tokenizer=tokenizer, report=partial(report, "captioning"),
        )  # fmt: skip
    found = _calibration(result, split, beam) if calibrate else None
    record = result.to_json()
    if found is not None and not isinstance(found, DatasetError):
        record["calibration"] = found.to_json()
    if json_file is not None:
        write_text(json_file, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    _print_scores(result, published="flickr8k" in Path(annotations).name.lower())
    if isinstance(found, DatasetError):
        raise found
    # The model is changed last, when nothing can fail any more.
    if folder is not None:
        _change_model(folder, decoding if keep_decoding else None, found)
    raise typer.Exit(1 if result.failures else 0)


def _own_folder(model: str | None) -> Path:
    """Return the folder of a model that may be changed.

    Raises:
        ConfigError: it lies in the cache of a hub, which must not be changed.
    """
    from regard.pretrained import find_model

    folder = find_model(model)
    if (folder / "config.json").is_symlink():
        raise ConfigError(
            f"{folder} holds links into the cache of a hub, which must not be changed. Copy the "
            "folder (cp -rL) and change the copy."
        )
    return folder


def _medium(dataset: CaptionDataset, split: str, folder: Path | None) -> str:
    """Return the medium of a split; check that a model to be changed is of the same medium."""
    from regard.checkpoint.folder import inspect_checkpoint
    from regard.media import medium_of

    items = dataset.split(split).items or dataset.items
    medium = medium_of(items[0].file) if items else "image"
    if folder is not None and (own := inspect_checkpoint(folder)["medium"]) != medium:
        raise ConfigError(
            f"{folder} is a model of {own}s, but the data set holds {medium}s, which cannot "
            f"calibrate it. Use a data set of {own}s."
        )
    return medium


def _calibration(result: EvaluationResult, split: str, beam: int) -> Calibration | DatasetError:
    """Return the calibration, or the error, so that the scores are still printed."""
    from regard.reliability.calibration import calibrate

    try:
        return calibrate(result.judged, split=split, beam=beam)
    except DatasetError as error:
        return error


def _change_model(folder: Path, decoding: Any, found: Calibration | None) -> None:
    from regard.checkpoint.folder import store_decoding
    from regard.reliability.confidence import store_confidence

    if decoding is not None:
        store_decoding(folder, decoding)
    if found is not None:
        store_confidence(folder, found.confidence)
        _print_calibration(found, folder)


def _print_scores(result: EvaluationResult, *, published: bool) -> None:
    """Print scores and statistics.

    Args:
        result: of the evaluation.
        published: whether the data set is Flickr8k, by its name, so that published scores of it
            stand below.
    """
    from regard.data.caption_records import counted, odd_caption

    console = tables(_PIPE_WIDTH)
    print_table(_score_table(result, published=published), console)
    print_table(_statistics_table(result), console)
    wordless = [k for k, text in result.captions.items() if text and odd_caption(text)]
    if note := counted("captions of the model that hold no word", map(repr, wordless)):
        complain(note)
    for name, reason in result.scores.missing.items():
        complain(f"no {METRIC_LABELS[name]}: {reason}")
    _complain_of(result.failures)


def _complain_of(failures: dict[str, Any]) -> None:
    for key, reason in failures.items():
        complain(f"{key}: {reason} Scored as an empty caption.")


def _print_calibration(found: Calibration, folder: Path) -> None:
    table = Table("chance of support", "calibration error", "log loss", title="by cross-validation")
    for name, label in _CHANCES.items():
        table.add_row(label, f"{found.errors[name]:.3f}", f"{found.losses[name]:.3f}")
    console = tables()
    print_table(table, console)
    made = found.confidence
    text = (f"{folder}: confidence kept, scale {made.scale:.3f}, shift {made.shift:.3f}, "
            f"of {made.words} words in {made.captions} captions")  # fmt: skip
    console.print(printable(text), soft_wrap=True, markup=False, highlight=False)


def _statistics_table(result: EvaluationResult) -> Table:
    s = result.statistics
    cells = {
        "words": f"{s.mean_length:.1f}",
        "distinct": f"{s.distinct} of {s.captions}",
        "words used": f"{s.words_used}" + (f" of {s.vocabulary}" if s.vocabulary else ""),
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


def _score_table(result: EvaluationResult, *, published: bool) -> Table:
    from regard.metrics.split_evaluation import FLICKR8K

    def cells(values: dict[str, float]) -> list[str]:
        return [f"{values[name]:.1f}" if name in values else "–" for name in names]

    settings, values = result.settings, result.scores.values
    names = [n for n in METRIC_LABELS if n != "spice" or n in values]
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
        + (" · no concept twice" if settings["name_once"] else "")
    )
    table.add_row(settings["model"], *cells(values), conditions, end_section=True)
    for row in FLICKR8K if published else ():
        table.add_row(row.name, *cells(row.scores), f"Flickr8k {row.conditions}")
    return table


def faithfulness(
    annotations: options.Annotations,
    images: options.Images = None,
    model: options.Model = None,
    control: Annotated[str | None, option("A model of the recipe uniform-control.")] = None,
    split: options.Split = "val",
    regions: Annotated[
        Path | None,
        option(
            "Where things are: objects.json, COCO's or named boxes, or a CSV of file,word,mask.",
            "--boxes",
            "--regions",
        ),
    ] = None,
    limit: options.Limit = 0,
    probed: Annotated[int, option("Pictures whose cells are covered.")] = 50,
    beam: options.Beam = 3,
    cover: Annotated[str, option("Covered cells show: mean or blur.")] = "mean",
    seed: Annotated[int, option("Seed of random orders and permutations.")] = 0,
    json_file: options.JsonFile = None,
    device: options.Device = options.AUTO,
) -> None:
    """Test whether the model depends on its attention: occlusion, agreement, swaps, pointing.

    A file that fails is scored as an empty caption and reported on standard error; the status
    is then 1.
    """
    from regard import load
    from regard.data.regions import load_regions
    from regard.faithfulness.experiments import check_control, control_scores
    from regard.faithfulness.experiments import faithfulness as measure

    check_record(json_file, "--json", _FAITHFULNESS_KEYS, [annotations, regions])
    dataset = open_dataset(annotations, images)
    places = load_regions(regions) if regions else None
    device = options.placed(device)
    captioner = load(model, medium=dataset.medium, device=device)
    rival = load(control, medium=dataset.medium, device=device) if control else None
    if rival is not None:
        check_control(rival)  # now, not after an hour of captioning
    with reporting() as report:
        found = measure(captioner, dataset, split=split, limit=limit, probed=probed, beam=beam,
                        cover=cover, regions=places, seed=seed, report=report)  # fmt: skip
        record = found.to_json()
        if rival is not None:
            record["control"] = control_scores(
                rival, dataset, split=split, limit=limit, beam=beam, report=report
            )
    if json_file is not None:
        write_text(json_file, json.dumps(record, indent=1) + "\n")
    _print_faithfulness(found, record.get("control"))
    failures = record.get("control", {}).get("failures", {}) | found.failures
    _complain_of(failures)
    raise typer.Exit(1 if failures else 0)


def _print_faithfulness(found: Faithfulness, control: dict[str, Any] | None) -> None:
    console, settings = tables(), found.settings
    table = Table("cells ordered by", "deletion, less is better", "insertion, more is better",
                  title="area under p(word)")  # fmt: skip
    for order, area in found.deletion.items():
        table.add_row(order, f"{area:.3f}", f"{found.insertion[order]:.3f}")
    print_table(table, console)
    table = Table("words", "correlation with occlusion", "number", title="alpha against occlusion")
    for name, row in found.agreement.items():
        table.add_row(name, f"{row['correlation']:+.2f}", f"{row['words']:.0f}")
    print_table(table, console)
    table = Table("attention", "BLEU-4", "CIDEr-D", "log p per word", title="attention swapped")
    for name, row in found.swaps.items():
        cells = (f"{row['bleu4']:.1f}", f"{row['cider_d']:.1f}", f"{row['logprob']:.3f}")
        table.add_row("the model's own" if name == "none" else name, *cells)
    if control is not None:
        cells = (f"{control['bleu4']:.1f}", f"{control['cider_d']:.1f}", "–")
        table.add_row(f"control: {control['model']}", *cells)
    print_table(table, console)
    if found.regions.get("words"):
        print_table(_region_table(found.regions), console)
    elif found.regions:
        console.print("No word of the captions names a region.")
    console.print(
        printable(
            f"{settings['model']} · {settings['split']}, {settings['pictures']} pictures, "
            f"{settings['probed']} of them covered cell by cell ({settings['cover']}) · "
            f"beam {settings['beam']}"
        ),
        markup=False,
    )


def _region_table(regions: dict[str, float]) -> Table:
    title = f"attention on the thing named, {regions['words']:.0f} words"
    table = Table("", "attention", "uniform", "middle", title=title)
    table.add_row("mass inside", f"{regions['mass']:.1%}", f"{regions['uniform_mass']:.1%}", "–")
    if regions["uniform_mass"]:
        ratio = regions["mass"] / regions["uniform_mass"]
        table.add_row("mass over the area", f"{ratio:.2f} ×", "1 ×", "–")
    table.add_row("peak inside", f"{regions['hit']:.1%}", f"{regions['uniform_hit']:.1%}",
                  f"{regions['middle_hit']:.1%}")  # fmt: skip
    return table
