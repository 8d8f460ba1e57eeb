"""A job on a Ray cluster: units go through a pool of workers, one core each, by Ray Data.

Only unit numbers and counts pass through the driver and the object store; pictures are read and
rows are written by the workers. Where a worker or its machine dies, Ray starts another and gives it
the unit again; a shard that was written by then is kept, and one that was not left no trace. Ray
would do so for ever: a unit that kills one worker after the other is written as failed.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.bulk.filesystem import Places
from regard.bulk.plan import TRIED, Job, part_name, read_unit
from regard.bulk.result_shards import counts_of
from regard.bulk.worker import Done, Worker
from regard.errors import ConfigError, MissingExtra, RegardError

if TYPE_CHECKING:
    from regard.bulk.local import Run

_TRIES = 3  # of a unit by workers whose predecessor died, until it is held to be what kills them
_DEADLY = (
    f"an item of its unit killed {_TRIES} workers or more. Find it: regard bulk with "
    "--engine local and --unit 1 on these files."
)
_BLOCKS = 10_000  # Ray plans so many tasks; with more units than that each does several
_STARTS = 3  # tries to start a cluster
_STORE = 2**28  # bytes of a local cluster's object store, through which only counts go
_LOGGERS = ("ray", "ray.data")
_FOR_RAY = {
    # It would tell its makers who uses it, and how, and collects that while a job runs.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else parts of it write to the driver's standard error
}


def run_on_ray(todo: Run, address: str, workers: int | None) -> Iterator[Done]:
    """See `regard.bulk.local.run`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Ray will do by default one day
            import ray
            import ray.data
            from ray.exceptions import RayError
    except ImportError as error:
        hint = "Or do without it, on this machine: --engine local."
        raise MissingExtra("ray", "bulk", "bulk work on a cluster", hint) from error
    with _environment(_FOR_RAY), _connected(ray, address), _quiet(ray):
        size = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # One row of lists a task: of tables Ray would start workers to ask for their columns.
        blocks = [
            {"unit": part.tolist(), "start": starts.tolist(), "stop": stops.tolist()}
            for part, starts, stops in _blocks(todo)
        ]
        results = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
            _UnitWorker,
            fn_constructor_args=(todo.plan.job, todo.plan.models, todo.again),
            compute=ray.data.ActorPoolStrategy(size=min(size, len(blocks))),
            batch_size=None,
            num_cpus=1,
        )
        try:
            for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
                for values in zip(batch["unit"], batch["rows"], batch["failed"], strict=True):
                    yield Done(*map(int, values))
        except RayError as error:
            raise _unwrapped(error) from error


class _UnitWorker:
    """A `Worker` as Ray Data calls it: with lists of units, and of where their lines are."""

    def __init__(self, job: Job, models: dict[str, dict[str, str]], again: bool) -> None:
        self._worker = Worker(job, models, cores=1)
        self._job, self._again = job, again
        self._place, self._out = Places().find(job.out)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        columns = (np.concatenate(list(batch[name])) for name in ("unit", "start", "stop"))
        for values in zip(*columns, strict=True):
            number, start, stop = map(int, values)
            path = f"{self._out}/{part_name(number, self._job.form)}"
            if not self._again and self._place.info(path) is not None:
                # The worker before this one got so far.
                done = Done(number, *counts_of(self._place, path, self._job.form))
            else:
                unit = read_unit(self._place, self._out, start, stop)
                if self._is_deadly(number):
                    done = self._worker.refuse(number, unit, _DEADLY)
                else:
                    (done,) = self._worker.run([(number, unit)])
            yield {name: np.array([getattr(done, name)]) for name in ("unit", "rows", "failed")}

    def _is_deadly(self, number: int) -> bool:
        """Whether a unit was begun so often that it must be what kills workers; count this time."""
        import ray

        if not ray.get_runtime_context().was_current_actor_reconstructed:
            return False
        for tries in range(_TRIES):
            mark = f"{self._out}/{TRIED}{number:06d}-{tries}"
            if self._place.info(mark) is None:
                with self._place.whole(mark) as scratch:
                    scratch.touch()
                return False
        return True


def _blocks(todo: Run) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield unit numbers, and where their lines begin and end, in as many parts as tasks."""
    offsets = np.frombuffer(todo.plan.offsets, np.uint64).astype(np.int64)
    numbers = np.frombuffer(todo.missing, np.uint64).astype(np.int64)
    for part in np.array_split(numbers, min(len(numbers), _BLOCKS)):
        yield part, offsets[part], offsets[part + 1]


@contextmanager
def _connected(ray: Any, address: str) -> Generator[None]:
    """Be in a cluster: the one that this process is in already, the one named, or a new one."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if address == "auto":
                try:
                    ray.init("auto", **quiet)
                except ConnectionError:
                    address = "local"
            if address == "local":
                _start(ray, **quiet, include_dashboard=False, object_store_memory=_STORE)
            elif address != "auto":
                ray.init(address, **({} if address.startswith("ray://") else quiet))
    except Exception as error:  # a cluster that does not start in time is a bare Exception
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"no Ray cluster at {address!r}: {reason}. Wanted: auto, local, or an address such as "
            "ray://head:10001."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(ray: Any, **options: Any) -> None:
    """Start a cluster on this machine; one that is busy may need a second try.

    Ray gives its own processes 15 seconds, and where they take longer starts nothing.
    """
    for left in reversed(range(_STARTS)):
        try:
            ray.init("local", **options)
            return
        except Exception:  # Ray has no narrower one for it
            ray.shutdown()
            if not left:
                raise


@contextmanager
def _quiet(ray: Any) -> Generator[None]:
    """Have Ray Data draw no bars and log no progress: the caller shows it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own defaults are deprecated to it
        context = ray.data.DataContext.get_current()
    kept = context.enable_progress_bars
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    context.enable_progress_bars = False
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = kept
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _environment(values: dict[str, str]) -> Generator[None]:
    """Set variables that processes started within inherit, where they are not set."""
    fresh = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in fresh})
    try:
        yield
    finally:
        for name in fresh:
            os.environ.pop(name, None)


def _unwrapped(error: BaseException) -> RegardError:
    """Return the error that a worker raised, or what became of the workers."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RegardError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    reason = str(error).strip().splitlines()
    return ConfigError(
        f"Ray could not go on: {reason[-1] if reason else type(error).__name__}. The rows so far "
        "are kept; the same command goes on."
    )
