"""A worker: reads the items of units, captions them in one stream of batches, writes shards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from inspect import GEN_CLOSED, getgeneratorstate

from regard.bulk.containers import Unit, files_of_tar, values_of_parquet
from regard.bulk.filesystem import Place, Places, shown
from regard.bulk.plan import Job, model_digest, part_name
from regard.bulk.result_shards import Row, Shard, caption_row, failed_row, new_shard
from regard.bulk.sources import entries_of
from regard.captioner import Deferred, Failure, Source
from regard.errors import ConfigError, MediaError, RegardError
from regard.media.find import medium_by_name, medium_of, medium_of_bytes, special_kind
from regard.model_pool import ModelPool
from regard.pretrained import find_model
from regard.types import Caption
from regard.util.shown_text import without_secrets

Numbered = tuple[int, Unit]
_Batch = tuple[str, list[Source]]
_MANY = 10**9  # files: enough that the fastest encoder is worth its start-up
_TRIES = 3  # to fetch a file
_PAUSE = 0.5  # seconds before the second try; twice as long before the third


@dataclass(frozen=True)
class FinishedUnit:
    """A unit whose rows are written.

    Attributes:
        unit: its number.
        rows: number of its rows, one for each item.
        failed: how many of them are of items that failed.
    """

    unit: int
    rows: int
    failed: int


@dataclass(frozen=True)
class _PendingItem:
    """An item whose row is not written yet; without an item, the end of a unit."""

    unit: int
    index: int = 0
    item: Item | None = None


_Rows = Iterator[tuple[_PendingItem, Row | None]]
_LAST = _PendingItem(-1)
"""The end of the last unit."""


class Worker:
    """Captions units and writes their shards. A row depends only on its unit."""

    def __init__(
        self,
        job: Job,
        models: dict[str, dict[str, str]],
        cores: int | None = None,
        device: str = "auto",
    ) -> None:
        """Store the arguments; models are loaded on first use.

        Args:
            job: the job.
            models: name and digest by medium, from the plan.
            cores: number of cores to use; None: all.
            device: where models run; see `Captioner.load`.
        """
        self._job, self._models = job, models
        self._places = Places()
        self._router = ModelPool(job.model, device=device, files=_MANY, cores=cores)
        self._limits: dict[str, int] = {}

    def run(self, units: Iterable[Numbered]) -> Iterator[FinishedUnit]:
        """Caption units a few batches ahead of writing; yield each when its rows are written.

        Raises:
            ConfigError: a setting is wrong, or the model here is not the plan's.
            RegardError: rows cannot be written, or a model cannot be loaded.
        """
        with ExitStack() as open_shard:
            shard: Shard | None = None
            for pending, row in self._rows(iter(units)):
                if shard is None:
                    shard = open_shard.enter_context(self._shard(pending.unit))
                if row is not None:
                    shard.add({"unit": pending.unit, "index": pending.index} | row)
                    continue
                done, shard = FinishedUnit(pending.unit, shard.rows, shard.failed), None
                open_shard.close()  # moves the shard to its final name
                yield done

    def write_failed(self, number: int, unit: Unit, reason: str) -> FinishedUnit:
        """Write a unit in which every item failed for the same reason."""
        with self._shard(number) as shard:
            for index, item in enumerate(items_of(unit, self._job.source, self._places)):
                row = failed_row(item.name, item.error or reason)
                shard.add({"unit": number, "index": index} | row)
        return FinishedUnit(number, shard.rows, shard.failed)

    def _shard(self, number: int) -> AbstractContextManager[Shard]:
        place, out = self._places.find(self._job.out)
        path = f"{out}/{part_name(number, self._job.form)}"
        return new_shard(place, path, self._job.form, traces=self._job.traces)

    def _rows(self, units: Iterator[Numbered]) -> _Rows:
        """Yield every item with its row, and the end of every unit with None."""
        pending: deque[_PendingItem] = deque()
        batches = self._batches(units, pending)
        while True:
            try:
                for result in self._captions(batches):
                    yield from self._known(pending)
                    yield pending[0], self._row(pending.popleft(), result)
                    yield from self._known(pending)
                yield from self._known(pending)
                return
            except (RegardError, OSError):
                raise
            except Exception:
                ended = getgeneratorstate(batches) == GEN_CLOSED
                if ended and not (pending and pending[-1] is _LAST):
                    raise  # the source itself raised and cannot continue
                # An unforeseen error of one item failed its whole batch. The pending items are
                # done again one by one, so that only that item fails.
                yield from self._one_by_one(pending)

    def _captions(self, batches: Iterable[_Batch]) -> Iterator[Caption | Failure]:
        return self._router.caption_batches(batches, keep_pixels=False, **self._job.options)

    def _known(self, pending: deque[_PendingItem]) -> _Rows:
        """Yield the pending items at the front that need no captioning."""
        while pending and (pending[0].item is None or pending[0].item.source is None):
            first = pending.popleft()
            if first is not _LAST:
                yield first, first.item and failed_row(first.item.name, first.item.error)

    def _one_by_one(self, pending: deque[_PendingItem]) -> _Rows:
        while pending:
            yield from self._known(pending)
            if not pending:
                return
            first = pending.popleft()
            item = first.item
            assert item is not None
            assert item.source is not None
            alone: list[_Batch] = [(item.medium, [item.source])]
            try:
                (result,) = self._captions(alone)
                yield first, self._row(first, result)
            except (RegardError, OSError):
                raise
            except Exception as error:
                reason = f"an unforeseen error: {type(error).__name__}: {error}"
                yield first, failed_row(item.name, reason)

    def _batches(
        self, units: Iterator[Numbered], pending: deque[_PendingItem]
    ) -> Generator[_Batch, None, None]:
        """Yield the items of each unit in batches that depend only on the unit.

        Every item is appended to `pending` before its batch is yielded, and so is a unit's end.
        """
        for number, unit in units:
            batch: list[Source] = []
            medium = ""
            for index, item in enumerate(items_of(unit, self._job.source, self._places)):
                if item.source is None:
                    pending.append(_PendingItem(number, index, item))
                    continue
                full = len(batch) == self._at_once(item.medium)
                if batch and (full or item.medium != medium):
                    yield medium, batch
                    batch = []
                pending.append(_PendingItem(number, index, item))
                medium = item.medium
                batch.append(item.source)
            if batch:
                yield medium, batch
            pending.append(_PendingItem(number))
        pending.append(_LAST)

    def _at_once(self, medium: str) -> int:
        """Return the batch size of a medium; check that its model is the plan's."""
        if medium not in self._limits:
            wanted = self._models[medium]
            if model_digest(find_model(self._job.model, medium)) != wanted["digest"]:
                raise ConfigError(
                    f"the model {wanted['model']!r} here differs from the one in the job's "
                    "plan. Copy that one to every machine."
                )
            self._limits[medium] = self._router.items_at_once(medium, self._job.batch_size)
        return self._limits[medium]

    def _row(self, pending: _PendingItem, result: Caption | Failure) -> Row:
        if isinstance(result, Failure):
            return failed_row(result.file, str(result.error))
        row = caption_row(result, traces=self._job.traces)
        return row | {"model_digest": self._models[result.medium]["digest"]}


@dataclass(frozen=True)
class Item:
    """A picture, clip or scan to caption, or one that cannot be captioned.

    Attributes:
        name: its name in rows and messages.
        medium: "image", "video" or "volume".
        source: returns its bytes or path; None where it cannot be captioned.
        error: the reason why it cannot be captioned, or "".
    """

    name: str
    medium: str
    source: Deferred | None
    error: str = ""


def items_of(unit: Unit, source: str, places: Places) -> Iterator[Item]:
    """Yield a unit's items in the order of the source.

    Whatever a library raises on the way is the reason of the items that are left.

    Args:
        unit: a unit of the source.
        source: path or URL of the job's source.
        places: opens it.

    Raises:
        RegardError: the job cannot continue, for its list has changed or a package is missing.
    """
    done, items = 0, _read_items(unit, source, places)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RegardError:
            raise
        except Exception as error:
            place, _ = places.find(source)
            reason = f"it cannot be read: {type(error).__name__}: {place.explain(error)}"
            left = 1 if unit.count is None else unit.count - done
            for number in range(done, done + left):
                entries = unit.entries[number : number + 1]
                name = entries[0][0] if entries else f"{place.url(unit.file)}#{number}"
                yield _failed(shown(name), reason)
            return
        done += 1
        yield item


def _read_items(unit: Unit, source: str, places: Places) -> Iterator[Item]:
    place, _ = places.find(source)
    if unit.kind == "files":
        for path, error in unit.entries:
            name = place.url(path)
            yield _failed(name, error) if error else _file(name, place, path)
    elif unit.kind == "listed":
        for entry, error in entries_of(unit, place):
            yield (
                _failed(shown(entry), error) if error else _named(entry, unit.file, source, places)
            )
    elif unit.kind == "tar":
        for name, content, error in files_of_tar(place, unit):
            yield _failed(name, error) if content is None else _held(name, name, content)
    else:
        yield from _rows(unit, place, source, places)


def _rows(unit: Unit, place: Place, source: str, places: Places) -> Iterator[Item]:
    url, done = place.url(unit.file), 0
    assert unit.count is not None
    try:
        for value, inner in values_of_parquet(place, unit):
            name = f"{url}#{unit.first + done}"
            done += 1
            if value is None:
                yield _failed(name, f"its column {unit.column!r} is empty.")
            elif isinstance(value, Exception):
                yield _failed(name, str(value))
            elif isinstance(value, bytes):
                yield _held(name, inner or name, value)
            else:
                yield _named(value, unit.file, source, places)
    except MediaError as error:
        for row in range(done, unit.count):
            yield _failed(f"{url}#{unit.first + row}", str(error))


def _named(entry: str, file: str, source: str, places: Places) -> Item:
    """Return the item of a file that a list or Parquet file names."""
    try:
        return _file(shown(entry), *places.beside(source, file, entry))
    except Exception as error:  # file systems raise exceptions of any class
        reason = without_secrets(str(error), [entry, source]) or type(error).__name__
        return _failed(shown(entry), reason)


def _file(name: str, place: Place, path: str) -> Item:
    if place.is_local:
        if kind := special_kind(path):
            return _failed(name, f"{name} is a {kind}, not a file.")
        return Item(name, medium_of(path), Deferred(name, lambda: path))
    return Item(name, _medium(name), Deferred(name, _fetching(place, path, name)))


def _held(name: str, inner: str, content: bytes) -> Item:
    medium = medium_of_bytes(inner, content)
    return Item(name, medium, Deferred(name, lambda: content))


def _failed(name: str, error: str) -> Item:
    return Item(name, _medium(name), None, error)


def _medium(name: str) -> str:
    named = medium_by_name(name) or medium_by_name(name.partition("?")[0])  # without a URL's query
    return named or "image"  # the image reader reports what is wrong


def _fetching(place: Place, path: str, name: str) -> Callable[[], bytes]:
    def fetch() -> bytes:
        for attempt in range(_TRIES):
            try:
                return place.read(path)
            except (FileNotFoundError, IsADirectoryError) as error:
                raise MediaError(f"{name} does not exist.") from error
            except Exception as error:  # file systems raise exceptions of any class
                if attempt == _TRIES - 1:
                    raise MediaError(
                        f"{name} could not be fetched, tried {_TRIES} times: {place.explain(error)}"
                    ) from error
                time.sleep(_PAUSE * 2**attempt)
        raise AssertionError("the last try returns or raises")

    return fetch
