"""The plan of a job: what is captioned by what, written once, held to by every later run.

    OUT/_plan.json       the job's settings, digests of the listing and of the models
    OUT/_plan.units      the units, a line each
    OUT/part-000123.*    the rows of unit 123; it is there only once it is whole

A leading underscore hides the plan from what reads a folder of Parquet files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regard.bulk.filesystem import Place, Places, shown
from regard.bulk.sources import PLAN, Unit, fixed_folder, units_of
from regard.checkpoint.folder import file_digest
from regard.errors import CheckpointError, ConfigError
from regard.pretrained import DEFAULTS, find_model

FORMAT_VERSION = 1
FORMATS = ("parquet", "jsonl")
UNITS = "_plan.units"
TRIED = "_tried-"
"""How the names of marks begin that say how often a unit was begun after a worker had died."""
_PART = re.compile(r"part-(\d{6,})\.(\w+)")


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
        source: path or URL of what is captioned.
        out: path or URL of the folder that the rows go into.
        model: folder, shipped model or hub id; None: the shipped model of each medium.
        form: "parquet" or "jsonl".
        traces: whether rows hold maps, gates and alternatives.
        unit: most items that are written and resumed together; a multiple of the batch size is
            fastest.
        batch_size: pictures that go through the network together.
        column: of a list or Parquet source; None: a usual one.
        options: of the decoding; see `DecodingOptions`.
    """

    source: str
    out: str
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
        """Return what rows depend on, without passwords; the model stands there by its digest."""
        values = asdict(self) | {"source": shown(self.source)}
        return {k: v for k, v in values.items() if k not in ("out", "model")}


@dataclass(frozen=True)
class Plan:
    """A job's plan, and where in `_plan.units` each unit is.

    Attributes:
        job: what was asked for.
        models: name and digest by medium.
        listing: SHA-256 of the units.
        items: in all units; None where nobody knows before they are read.
        offsets: of the units' lines, and the end: one more than there are units.
    """

    job: Job
    models: dict[str, dict[str, str]]
    listing: str
    items: int | None
    offsets: array[int]

    @property
    def units(self) -> int:
        """How many there are."""
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
    """Write a job's plan, or find that the one in its folder is the same.

    Raises:
        ConfigError: the folder holds the rows of another job, or of a source that has changed
            since; or there is nothing to caption.
        CheckpointError: there is no such model.
    """
    models = models_of(job)
    place, out = places.find(job.out)
    there = place.info(out)
    if there is not None and not there.is_folder:
        raise ConfigError(f"{shown(job.out)} is a file; a folder was wanted. Name another one.")
    stored = _stored(place, out)
    wanted = {"format_version": FORMAT_VERSION, **job.settings(), "models": models}
    has_rows = next(_parts(place, out), None) is not None
    if stored is not None and not has_rows:
        stored = None  # nothing holds to it yet
    other = [k for k, v in wanted.items() if stored is not None and stored.get(k) != v]
    if stored is not None and other:
        changes = "; ".join(f"{k} was {stored.get(k)!r} and is {wanted[k]!r}" for k in other)
        raise ConfigError(
            f"{shown(job.out)} holds rows of another job: {changes}. Name another folder, or take "
            "the old settings to go on."
        )
    _refuse_same(job, places)
    units = units_of(job.source, places, size=job.unit, column=job.column)
    if stored is not None:
        plan = _scanned(job, models, units)
        if plan.listing != stored["listing"]:
            raise ConfigError(
                f"{shown(job.source)} is not what it was when {shown(job.out)} was begun: "
                f"{_count(stored['items'])} then, {_count(plan.items)} now, or other names or "
                "sizes. Name another folder for what is there now."
            )
        return plan
    if has_rows:
        raise ConfigError(
            f"{shown(job.out)} holds rows without the plan {PLAN} that they are of. Name another "
            "folder, or delete them."
        )
    return _written(job, models, units, place, out)


def _refuse_same(job: Job, places: Places) -> None:
    """Refuse to write among what is read: with the plan in it a folder is no source any more."""
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
        # The plan last: where it is, the units are whole.
        with place.whole(f"{out}/{PLAN}") as path:
            text = json.dumps(plan.to_json(), indent=2, ensure_ascii=False)
            path.write_text(text + "\n", "utf-8", "backslashreplace")
    except OSError as error:
        raise ConfigError(f"{shown(job.out)} cannot be written: {error}.") from error
    return plan


def _scanned(job: Job, models: dict[str, Any], units: Iterator[Unit], file: Any = None) -> Plan:
    """Go once through the units: digest, offsets, items, and a copy of them where one is wanted."""
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
    """Read one unit of a plan by where its line begins and ends."""
    with place.open(f"{out}/{UNITS}") as file:
        file.seek(start)
        return Unit.from_json(file.read(stop - start))


def done_units(plan: Plan, place: Place, out: str) -> bytearray:
    """Return for every unit whether its rows are there."""
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
        CheckpointError: there is no such model.
    """
    folders = {medium: find_model(job.model, medium) for medium in DEFAULTS}
    digests = {folder: model_digest(folder) for folder in set(folders.values())}
    return {
        medium: {"model": job.model or DEFAULTS[medium], "digest": digests[folder]}
        for medium, folder in folders.items()
    }


def model_digest(folder: Path) -> str:
    """Return a SHA-256 of all that a model's captions depend on: its files but metrics and card.

    Raises:
        CheckpointError: it cannot be read.
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
            f"{place.url(path)} is no plan of this program: {error}. Name another folder."
        ) from error
    return values


def _count(items: int | None) -> str:
    return "an unknown number of items" if items is None else f"{items:,} items"
