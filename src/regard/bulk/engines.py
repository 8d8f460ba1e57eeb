"""Engines: the units of a run done in this process, or by a pool of workers on a Ray cluster.

On Ray only unit numbers and counts pass through the driver and the object store; the workers, one
core or one GPU each, read pictures and write rows. Where a worker or its machine dies, Ray starts
another one and gives it the unit again. A shard that was complete by then is kept, and an
incomplete one leaves no trace. Ray would retry without end, so a unit that kills one worker after
the other is written as failed.
"""

import logging
import os
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from regard.bulk.filesystem import NEW, Places, locked_place
from regard.bulk.plan import TRIED, BulkRun, Job, check_plan, part_name, read_unit
from regard.bulk.result_shards import counts_of
from regard.bulk.worker import FinishedUnit, Worker
from regard.checkpoint.components import placed
from regard.errors import ConfigError, RegardError, UnknownName, needs_extra
from regard.util.child_python import python_environment
from regard.util.folder_lock import ignore
from regard.util.shown_text import without_secrets

ENGINES = ("auto", "local", "ray")

_TRIES = 3  # of a unit by workers whose predecessor died, before it is written as failed
_DEADLY = (
    f"an item of its unit killed {_TRIES} workers or more. Find it: regard bulk with "
    "--engine local and --unit 1 on these files."
)
_BLOCKS = 10_000  # largest number of Ray tasks; with more units each task does several
_STARTS = 3  # tries to start a cluster
_STORE = 2**28  # bytes of a local cluster's object store, which only holds counts
_LOGGERS = ("ray", "ray.data")
_FOR_RAY = {
    # Otherwise Ray collects usage statistics while a job runs and reports them to its makers.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # otherwise parts of Ray write to the driver's standard error
}


def run(
    todo: BulkRun,
    *,
    engine: str = "auto",
    address: str = "auto",
    workers: int | None = None,
    device: str = "auto",
) -> Iterator[FinishedUnit]:
    """Do the missing units, and yield every unit when its rows are written.

    Args:
        todo: returned by `open_run`.
        engine: "ray"; "local": this process; "auto": Ray where it is installed.
        address: address of the Ray cluster: "auto": one that runs here, else a new one; "local":
            a new one on this machine; or an address such as ray://head:10001.
        workers: Ray workers, one core each, or one GPU where `device` is a GPU; None: as many as
            the cluster has of them.
        device: where models run; see `Captioner.load`. A Ray worker on a GPU has it to itself.

    Raises:
        UnknownName: the engine is unknown.
        ConfigError: the cluster cannot be reached, the named engine does not use one, or another
            process fills the folder.
        MissingExtra: Ray is not installed.
        RegardError: the work cannot continue.
    """
    engine = engine_for(engine, address, workers)
    if not todo.missing:
        return
    job = todo.plan.job
    place, out = Places().find(job.out)
    with locked_place(job.out, place, out, ignore) as check:
        check_plan(todo.plan, place, out)
        if engine == "ray":
            doing = _run_on_ray(todo, address, workers, placed(device))
        else:
            doing = _run_locally(todo, device)
        with closing(doing):
            for done in doing:
                check()
                yield done
        _clear(job)


def engine_for(engine: str, address: str = "auto", workers: int | None = None) -> str:
    """Return the engine to use, "ray" or "local"; see `run` for the arguments.

    Raises:
        UnknownName: the engine is unknown.
        ConfigError: a cluster or workers were given for the local engine.
    """
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    of_ray = address != "auto" or workers is not None
    if engine == "local" and of_ray:
        raise ConfigError(
            f"the engine is 'local', but address={address!r} and workers={workers} are for Ray. "
            "Leave them out, or use --engine ray."
        )
    if engine == "auto":
        return "ray" if of_ray or _has_ray() else "local"
    return engine


def _run_locally(todo: BulkRun, device: str) -> Generator[FinishedUnit]:
    plan, places = todo.plan, Places()
    place, out = places.find(plan.job.out)
    units = (
        (number, read_unit(place, out, *plan.offsets[number : number + 2]))
        for number in todo.missing
    )
    yield from Worker(plan.job, plan.models, device=device).run(units)


def _clear(job: Job) -> None:
    """Delete the temporary files of killed runs and workers, once all rows are written."""
    place, out = Places().find(job.out)
    for entry in list(place.entries(out)):
        if entry.path.rpartition("/")[2].startswith(TRIED):
            place.delete(entry.path)
    if place.is_local:
        for path in Path(out).glob(f".*{NEW}"):
            path.unlink(missing_ok=True)


def _has_ray() -> bool:
    return find_spec("ray") is not None


def _run_on_ray(
    todo: BulkRun, address: str, workers: int | None, device: str
) -> Generator[FinishedUnit]:
    """Do the missing units on a cluster; see `run`."""
    kind = device.partition(":")[0]  # Ray says which GPU, and shows a worker only that
    hint = "Or work on this machine without it: --engine local."
    with needs_extra("ray", "bulk", "bulk work on a cluster", hint), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about future defaults of Ray
        import ray
        import ray.data
        from ray.exceptions import RayError
    path = {"PYTHONPATH": python_environment()["PYTHONPATH"]}
    with _environment(_FOR_RAY | path), _connected(ray, address), _quiet(ray):
        unit = "CPU" if kind == "cpu" else "GPU"
        size = workers or max(1, int(ray.cluster_resources().get(unit, 1)))
        # One row of lists per task: for tables Ray would start workers to find their columns.
        blocks = [
            {"unit": part.tolist(), "start": starts.tolist(), "stop": stops.tolist()}
            for part, starts, stops in _blocks(todo)
        ]
        results = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
            _UnitWorker,
            fn_constructor_args=(todo.plan.job, todo.plan.models, todo.again, kind),
            compute=ray.data.ActorPoolStrategy(size=min(size, len(blocks))),
            batch_size=None,
            num_cpus=1,
            num_gpus=None if kind == "cpu" else 1,
        )
        try:
            for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
                for values in zip(batch["unit"], batch["rows"], batch["failed"], strict=True):
                    yield FinishedUnit(*map(int, values))
        except RayError as error:
            raise _unwrapped(error) from error


class _UnitWorker:
    """Adapter of `Worker` to Ray Data, which passes lists of units and of their offsets."""

    def __init__(
        self, job: Job, models: dict[str, dict[str, str]], again: bool, device: str = "cpu"
    ) -> None:
        self._worker = Worker(job, models, cores=1, device=device)
        self._job, self._again = job, again
        self._place, self._out = Places().find(job.out)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        columns = (np.concatenate(list(batch[name])) for name in ("unit", "start", "stop"))
        for values in zip(*columns, strict=True):
            number, start, stop = map(int, values)
            path = f"{self._out}/{part_name(number, self._job.form)}"
            if not self._again and self._place.info(path) is not None:
                # The worker before this one, which died, had written it.
                done = FinishedUnit(number, *counts_of(self._place, path, self._job.form))
            else:
                unit = read_unit(self._place, self._out, start, stop)
                if self._is_deadly(number):
                    done = self._worker.write_failed(number, unit, _DEADLY)
                else:
                    (done,) = self._worker.run([(number, unit)])
            yield {name: np.array([getattr(done, name)]) for name in ("unit", "rows", "failed")}

    def _is_deadly(self, number: int) -> bool:
        """Count this try of a unit; return whether there were too many by dying workers."""
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


def _blocks(todo: BulkRun) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield unit numbers and the start and stop of their lines, one part for each task."""
    offsets = np.frombuffer(todo.plan.offsets, np.uint64).astype(np.int64)
    numbers = np.frombuffer(todo.missing, np.uint64).astype(np.int64)
    for part in np.array_split(numbers, min(len(numbers), _BLOCKS)):
        yield part, offsets[part], offsets[part + 1]


@contextmanager
def _connected(ray: Any, address: str) -> Generator[None]:
    """Connect to a cluster: the current one of this process, the named one, or a new one."""
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    config = ray.job_config.JobConfig()
    config._py_driver_sys_path = _NoFolders()
    quiet["job_config"] = config
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
        reason = " ".join(without_secrets(str(error), [address]).split())
        raise ConfigError(
            f"no Ray cluster at {address!r}: {reason}. Use auto, local, or an address such as "
            "ray://head:10001."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


class _NoFolders(list[str]):
    """Stays empty: Ray would make workers import from the driver's current folder first."""

    def extend(self, _: Any) -> None:
        """Add nothing."""


def _start(ray: Any, **options: Any) -> None:
    """Start a cluster on this machine; a busy machine may need a second try.

    Ray gives its own processes 15 seconds to start, and gives up if they take longer.
    """
    for left in reversed(range(_STARTS)):
        try:
            ray.init("local", **options)
            return
        except Exception:  # Ray raises nothing narrower
            ray.shutdown()
            if not left:
                raise


@contextmanager
def _quiet(ray: Any) -> Generator[None]:
    """Turn off the bars and progress logs of Ray Data: the caller shows progress."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns about its own defaults
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
    """Set variables for processes started within the block; the user's own settings of Ray hold."""
    before = {name: os.environ.get(name) for name in values}
    given = {k: v for k, v in values.items() if not (k.startswith("RAY_") and before[k])}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _unwrapped(error: BaseException) -> RegardError:
    """Return the error that a worker raised, or one that explains why the workers are lost."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RegardError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    reason = str(error).strip().splitlines()
    return ConfigError(
        f"Ray could not continue: {reason[-1] if reason else type(error).__name__}. The rows so "
        "far are kept; the same command continues."
    )
