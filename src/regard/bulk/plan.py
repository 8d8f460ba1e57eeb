"""The plan of a job: files, models and settings, written once and followed by every later run.

    OUT/_plan.json       the job's settings, digests of the listing and of the models
    OUT/_plan.units      the units, one a line
    OUT/part-000123.*    the rows of unit 123; the file exists only once it is complete

Readers of a folder of Parquet files skip names with a leading underscore.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from regard.bulk.containers import Unit
from regard.bulk.filesystem import Place, Places, locked_place, shown
from regard.bulk.result_shards import check_form, counts_of
from regard.bulk.sources import PLAN, fixed_folder, units_of
from regard.checkpoint.components import recipe_of
from regard.checkpoint.folder import file_digest, load_checkpoint
from regard.errors import CheckpointError, ConfigError, RegardError
from regard.pipeline import decoding_options
from regard.pretrained import DEFAULTS, find_model
from regard.util.folder_lock import Report, ignore
from regard.util.shown_text import without_secrets

FORMAT_VERSION = 1
FORMATS = ("parquet", "jsonl")
UNITS = "_plan.units"
TRIED = "_tried-"
"""Prefix of empty files that count how often a unit was started after a worker died."""
_READERS = 16  # shards whose counts are read at the same time
_PART = re.compile(r"part-(\d{6,})\.(\w+)")


@dataclass(frozen=True)
class Job:
    """A captioning job: source, model, options, and the folder for the rows.

    Attributes:
        source: path or URL of the files.
        out: path or URL of the folder for the rows.
        model: folder, shipped model or hub id; None: the shipped model of each medium.
        form: "parquet" or "jsonl".
        traces: whether rows hold maps, gates and alternatives.
        unit: largest number of items that are written and resumed together; a multiple of the
            batch size is fastest.
        batch_size: pictures that go through the network together.
        column: column of a list or Parquet source; None: the first of the usual names.
        options: decoding options; see `DecodingOptions`.
    """

    source: str = field(repr=False)
    out: str = field(repr=False)
    model: str | None = None
    form: str = "parquet"
    traces: bool = False
    unit: int = 256
    batch_size: int = 32
    column: str | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise ConfigError(f"the format is {self.form!r}; it must be one of {FORMATS}.")
        for name in ("unit", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")

    def settings(self) -> dict[str, Any]:
        """Return the settings that rows depend on, without passwords; models count by digest."""
        values = asdict(self) | {"source": shown(self.source)}
        return {k: v for k, v in values.items() if k not in ("out", "model")}


@dataclass(frozen=True)
class Plan:
    """A job's plan, and the offset of each unit in `_plan.units`.

    Attributes:
        job: the job.
        models: name and digest by medium.
        listing: SHA-256 of the units.
        items: number of items in all units; None where it is unknown before they are read.
        offsets: byte offsets of the units' lines, and of the end: one more than there are units.
        left_out: lines about files of the source that are not captioned.
    """

    job: Job
    models: dict[str, dict[str, str]]
    listing: str
    items: int | None
    offsets: array[int]
    left_out: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.offsets) - 1

    def to_json(self) -> dict[str, Any]:
        """Return the content of `_plan.json`."""
        return {
            "format_version": FORMAT_VERSION,
            **self.job.settings(),
            "models": self.models,
            "listing": self.listing,
            "units": self.units,
            "items": self.items,
        }


def open_plan(job: Job, places: Places) -> Plan:
    """Write a job's plan, or read the one in its folder and check that it is the same.

    Raises:
        ConfigError: the folder holds the rows of another job, the source has changed since, or
            it holds nothing to caption.
        CheckpointError: a model does not exist.
    """
    models = models_of(job)
    place, out = places.find(job.out)
    there = place.info(out)
    if there is not None and not there.is_folder:
        raise ConfigError(_is_a_file(job))
    stored = _stored(place, out)
    wanted = {"format_version": FORMAT_VERSION, **job.settings(), "models": models}
    has_rows = next(_parts(place, out), None) is not None
    if stored is not None and not has_rows:
        stored = None  # no rows depend on it yet
    other = [k for k, v in wanted.items() if stored is not None and stored.get(k) != v]
    if stored is not None and other:
        changes = "; ".join(f"{k} was {stored.get(k)!r} and is {wanted[k]!r}" for k in other)
        raise ConfigError(
            f"{shown(job.out)} holds rows of another job: {changes}. Name another folder, or use "
            "the old settings to continue."
        )
    _check_folders_differ(job, places)
    said: list[str] = []
    found = units_of(job.source, places, size=job.unit, column=job.column, report=said.append)
    units = _readable(found, job.source)
    if stored is not None:
        plan = replace(_scanned(job, models, units), left_out=tuple(said))
        if plan.listing != stored["listing"]:
            raise ConfigError(
                f"{shown(job.source)} has changed since {shown(job.out)} was started: "
                f"{_count(stored['items'])} then, {_count(plan.items)} now, or other names or "
                "sizes. Name another folder for the new files."
            )
        return plan
    if has_rows:
        raise ConfigError(
            f"{shown(job.out)} holds rows without their plan {PLAN}. Name another folder, or "
            "delete the rows."
        )
    return replace(_written(job, models, units, place, out), left_out=tuple(said))


def _is_a_file(job: Job) -> str:
    return f"{shown(job.out)} is a file; a folder was expected. Name another one."


def check_plan(plan: Plan, place: Place, out: str) -> None:
    """Check that the folder still has a plan, before its units are done.

    Raises:
        ConfigError: another job has been started there since.
    """
    stored, wanted = _stored(place, out), plan.to_json()
    if stored is not None and any(stored.get(key) != value for key, value in wanted.items()):
        raise ConfigError(
            f"{shown(plan.job.out)} has been given to another job since this one was planned. Name "
            "another folder."
        )


def _readable(units: Iterator[Unit], source: str) -> Iterator[Unit]:
    """Yield units; whatever a library raises on the way becomes one error."""
    try:
        yield from units
    except (RegardError, OSError):
        raise
    except Exception as error:
        reason = without_secrets(str(error), [source])
        raise ConfigError(
            f"{shown(source)} cannot be listed: {type(error).__name__}: {reason}. Check the source."
        ) from error


def _check_folders_differ(job: Job, places: Places) -> None:
    """Raise if rows would go into the source's folder: a folder with a plan is not a source."""
    (source, path), (target, out) = places.find(job.source), places.find(job.out)
    found = source.info(path)
    if source is not target or (found is not None and not found.is_folder):
        return
    folder = path if found else fixed_folder(path)
    if folder == out or (source.is_local and os.path.realpath(folder) == os.path.realpath(out)):
        raise ConfigError(
            f"{shown(job.out)} is the folder of the source itself. Name another one for the rows."
        )


def _written(
    job: Job, models: dict[str, Any], units: Iterator[Unit], place: Place, out: str
) -> Plan:
    try:
        with place.whole(f"{out}/{UNITS}") as path, path.open("wb") as file:
            plan = _scanned(job, models, units, file)
        # The plan is written last: where it exists, the units are complete.
        with place.whole(f"{out}/{PLAN}") as path:
            text = json.dumps(plan.to_json(), indent=2, ensure_ascii=False)
            path.write_text(text + "\n", "utf-8", "backslashreplace")
    except OSError as error:
        raise ConfigError(f"{shown(job.out)} cannot be written: {place.explain(error)}.") from error
    return plan


def _scanned(job: Job, models: dict[str, Any], units: Iterator[Unit], file: Any = None) -> Plan:
    """Return the plan of units, reading them once; copy them to `file` if one is given."""
    sha, offsets, items = hashlib.sha256(), array("Q", [0]), 0
    known = True
    for unit in units:
        line = unit.to_json().encode() + b"\n"
        sha.update(line)
        offsets.append(offsets[-1] + len(line))
        known = known and unit.count is not None
        items += unit.count or 0
        if file is not None:
            file.write(line)
    return Plan(job, models, sha.hexdigest(), items if known else None, offsets)


def read_unit(place: Place, out: str, start: int, stop: int) -> Unit:
    """Return the unit whose line in the plan starts and stops at these bytes."""
    with place.open(f"{out}/{UNITS}") as file:
        file.seek(start)
        return Unit.from_json(file.read(stop - start))


def done_units(plan: Plan, place: Place, out: str) -> bytearray:
    """Return 1 for every unit whose rows exist, else 0."""
    done = bytearray(plan.units)
    for number, form in _parts(place, out):
        if number < plan.units and form == plan.job.form:
            done[number] = 1
    return done


def part_name(number: int, form: str) -> str:
    """Return the file name of a unit's rows."""
    return f"part-{number:06d}.{form}"


def _parts(place: Place, out: str) -> Iterator[tuple[int, str]]:
    if place.info(out) is None:
        return
    for entry in place.entries(out):
        if found := _PART.fullmatch(os.path.basename(entry.path)):
            yield int(found[1]), found[2]


def models_of(job: Job) -> dict[str, dict[str, str]]:
    """Return the name and digest of the model of each medium.

    Raises:
        CheckpointError: a model does not exist.
    """
    folders = {medium: find_model(job.model, medium) for medium in DEFAULTS}
    digests = {folder: model_digest(folder) for folder in set(folders.values())}
    return {
        medium: {"model": job.model or DEFAULTS[medium], "digest": digests[folder]}
        for medium, folder in folders.items()
    }


def model_digest(folder: Path) -> str:
    """Return a SHA-256 of the files that a model's captions depend on: not metrics and card.

    Raises:
        CheckpointError: a file cannot be read.
    """
    sha = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix in (".json", ".safetensors", ".onnx") and path.name != "metrics.json":
                sha.update(f"{path.name} {file_digest(path)}\n".encode())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}.") from error
    return sha.hexdigest()


def _stored(place: Place, out: str) -> dict[str, Any] | None:
    path = f"{out}/{PLAN}"
    if place.info(path) is None:
        return None
    try:
        values = json.loads(place.read(path))
        if not {"listing", "items"} <= set(values):
            raise ValueError("it lacks the listing")
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{place.url(path)} is not a plan of `regard bulk`: {error}. Name another folder."
        ) from error
    return values


def _count(items: int | None) -> str:
    return "an unknown number of items" if items is None else f"{items:,} items"


@dataclass(frozen=True)
class BulkRun:
    """The work of one run of a job.

    Attributes:
        plan: plan of the job.
        missing: numbers of the units to do.
        there: number of finished units, of their rows, and of rows that failed.
        again: whether finished units are redone.
    """

    plan: Plan
    missing: array[int]
    there: tuple[int, int, int]
    again: bool


def open_run(job: Job, *, retry_failed: bool = False, report: Report = ignore) -> BulkRun:
    """Plan a job, or find the units that earlier runs of it left.

    Args:
        job: the job.
        retry_failed: also redo units in which an item failed.
        report: receives a line if the lock of a process that was killed is taken over.

    Raises:
        ConfigError: an option is wrong, the source holds nothing to caption, or the folder holds
            the rows of another job, or another process fills it.
        CheckpointError: a model does not exist.
        MissingExtra: a format or file system needs a package that is not installed.
    """
    check_form(job.form)
    _check_options(job)
    places = Places()
    place, out = places.find(job.out)
    if place.is_local and Path(out).is_file():
        raise ConfigError(_is_a_file(job))
    with locked_place(job.out, place, out, report):
        plan = open_plan(job, places)
        return _missing(plan, done_units(plan, place, out), place, out, retry_failed)


def _missing(plan: Plan, done: bytearray, place: Place, out: str, retry_failed: bool) -> BulkRun:
    """Return the units that are left to do, and the counts of those that are done."""
    job = plan.job
    there = (number for number, is_there in enumerate(done) if is_there)
    units = rows = failed = 0
    again = False

    def counts(number: int) -> tuple[int, tuple[int, int]]:
        return number, counts_of(place, f"{out}/{part_name(number, job.form)}", job.form)

    with ThreadPoolExecutor(_READERS) as pool:
        while some := list(islice(there, 64 * _READERS)):
            for number, (found, bad) in pool.map(counts, some):
                if retry_failed and bad:
                    done[number], again = 0, True
                    continue
                units, rows, failed = units + 1, rows + found, failed + bad
    missing = array("Q", (number for number, is_there in enumerate(done) if not is_there))
    return BulkRun(plan, missing, (units, rows, failed), again)


def _check_options(job: Job) -> None:
    """Raise for wrong options now: a plan with them would have to be deleted by hand."""
    for folder in {find_model(job.model, medium) for medium in DEFAULTS}:
        checkpoint = load_checkpoint(folder)
        recipe, name = recipe_of(checkpoint), checkpoint.config["name"]
        decoding_options(job.options, checkpoint.vocabulary, recipe, name)
