"""A run of a job: what is there already, what is missing, and who does it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from regard.bulk.filesystem import NEW, Places
from regard.bulk.plan import TRIED, Job, Plan, done_units, open_plan, part_name, read_unit
from regard.bulk.result_shards import check_form, counts_of
from regard.bulk.worker import Done, Worker
from regard.checkpoint.folder import load_checkpoint
from regard.config import Recipe
from regard.config.io import from_dict
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.pipeline import decoding_options
from regard.pretrained import DEFAULTS, find_model

ENGINES = ("auto", "local", "ray")
_READERS = 16  # shards whose counts are read together


@dataclass(frozen=True)
class Run:
    """What a run of a job has before it.

    Attributes:
        plan: of the job.
        missing: units that it does.
        there: of the units that are done already: how many they are, rows, rows that failed.
        again: whether units whose rows are there are done again.
    """

    plan: Plan
    missing: array[int]
    there: tuple[int, int, int]
    again: bool


def open_run(job: Job, *, retry_failed: bool = False) -> Run:
    """Plan a job, or find what an earlier run of it left to do.

    Args:
        job: what is asked for.
        retry_failed: also do units again in which an item failed.

    Raises:
        ConfigError: an option is wrong, there is nothing to caption, or the folder holds the rows
            of another job.
        CheckpointError: there is no such model.
        MissingExtra: a format or place needs a package that is not installed.
    """
    check_form(job.form)
    _check_options(job)
    places = Places()
    plan = open_plan(job, places)
    place, out = places.find(job.out)
    done = done_units(plan, place, out)
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
    return Run(plan, missing, (units, rows, failed), again)


def run(
    todo: Run, *, engine: str = "auto", address: str = "auto", workers: int | None = None
) -> Iterator[Done]:
    """Do what is missing, and yield every unit when its rows are there.

    Args:
        todo: of `open_run`.
        engine: "ray"; "local": this process; "auto": Ray where it is installed.
        address: of the Ray cluster: "auto": one that runs here, else a new one; "local": a new
            one on this machine; or its address, such as ray://head:10001.
        workers: of Ray, one core each; None: as many as the cluster has cores.

    Raises:
        UnknownName: there is no such engine.
        ConfigError: the cluster is not there, or the engine that was named has none.
        MissingExtra: Ray is not installed.
        RegardError: the work cannot go on.
    """
    engine = engine_for(engine, address, workers)
    if not todo.missing:
        return
    if engine == "ray":
        from regard.bulk.ray_cluster import run_on_ray

        yield from run_on_ray(todo, address, workers)
    else:
        yield from _run_here(todo)
    _clear(todo.plan.job)


def engine_for(engine: str, address: str = "auto", workers: int | None = None) -> str:
    """Return "ray" or "local", whichever does what is asked for; see `run`.

    Raises:
        UnknownName: there is no such engine.
        ConfigError: a cluster or workers were named for this process.
    """
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    of_ray = address != "auto" or workers is not None
    if engine == "local" and of_ray:
        raise ConfigError(
            f"the engine is 'local', and address={address!r} and workers={workers} are Ray's. "
            "Leave them out, or take --engine ray."
        )
    if engine == "auto":
        return "ray" if of_ray or _has_ray() else "local"
    return engine


def _run_here(todo: Run) -> Iterator[Done]:
    plan, places = todo.plan, Places()
    place, out = places.find(plan.job.out)
    units = (
        (number, read_unit(place, out, *plan.offsets[number : number + 2]))
        for number in todo.missing
    )
    yield from Worker(plan.job, plan.models).run(units)


def _clear(job: Job) -> None:
    """Delete what killed runs and workers left; nobody writes any more now that all is there."""
    place, out = Places().find(job.out)
    for entry in list(place.entries(out)):
        if entry.path.rpartition("/")[2].startswith(TRIED):
            place.delete(entry.path)
    if place.is_local:
        for path in Path(out).glob(f".*{NEW}"):
            path.unlink(missing_ok=True)


def _check_options(job: Job) -> None:
    """Refuse wrong options now: a plan of them would have to be deleted by hand."""
    for folder in {find_model(job.model, medium) for medium in DEFAULTS}:
        checkpoint = load_checkpoint(folder)
        try:
            recipe = from_dict(Recipe, checkpoint.config["recipe"])
        except (ValueError, LookupError) as error:
            raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
        decoding_options(job.options, checkpoint.vocabulary, recipe, checkpoint.config["name"])


def _has_ray() -> bool:
    from importlib.util import find_spec

    return find_spec("ray") is not None
