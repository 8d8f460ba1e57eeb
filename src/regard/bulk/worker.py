"""A worker: units in, shards out. One model per medium, one stream of batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from inspect import GEN_CLOSED, getgeneratorstate

from regard.bulk.filesystem import Places
from regard.bulk.items import Item, items_of
from regard.bulk.plan import Job, model_digest, part_name
from regard.bulk.result_shards import Row, Shard, caption_row, failed_row, new_shard
from regard.bulk.sources import Unit
from regard.captioner import Failure, Source
from regard.errors import ConfigError, RegardError
from regard.model_pool import ModelPool
from regard.pretrained import find_model
from regard.types import Caption

Numbered = tuple[int, Unit]
_Batch = tuple[str, list[Source]]
_MANY = 10**9  # files, for which the fastest way is worth its start


@dataclass(frozen=True)
class Done:
    """A unit whose rows are written.

    Attributes:
        unit: its number.
        rows: it has, one for each item.
        failed: of them, of items that failed.
    """

    unit: int
    rows: int
    failed: int


@dataclass(frozen=True)
class _Begun:
    """An item that was taken and whose row is to come; without an item the end of its unit."""

    unit: int
    index: int = 0
    item: Item | None = None


_LAST = _Begun(-1)
"""After the last unit."""


class Worker:
    """Captions units and writes their shards; what else it did makes no difference to a row."""

    def __init__(
        self, job: Job, models: dict[str, dict[str, str]], cores: int | None = None
    ) -> None:
        """Load nothing yet.

        Args:
            job: what is asked for.
            models: name and digest by medium, as the plan has them.
            cores: that it may take; None: all.
        """
        self._job, self._models = job, models
        self._places = Places()
        self._router = ModelPool(job.model, files=_MANY, cores=cores)
        self._limits: dict[str, int] = {}

    def run(self, units: Iterable[Numbered]) -> Iterator[Done]:
        """Caption units, a few batches ahead of what is written, and say of each when it is there.

        Raises:
            ConfigError: a setting is wrong, or the model here is not the plan's.
            RegardError: nothing can be written, or a model cannot be loaded.
        """
        with ExitStack() as open_shard:
            shard: Shard | None = None
            for begun, row in self._rows(iter(units)):
                if shard is None:
                    shard = open_shard.enter_context(self._shard(begun.unit))
                if row is not None:
                    shard.add({"unit": begun.unit, "index": begun.index} | row)
                    continue
                done, shard = Done(begun.unit, shard.rows, shard.failed), None
                open_shard.close()  # which puts the shard in its place
                yield done

    def refuse(self, number: int, unit: Unit, reason: str) -> Done:
        """Write a unit whose every item failed, for one reason."""
        with self._shard(number) as shard:
            for index, item in enumerate(items_of(unit, self._job.source, self._places)):
                row = failed_row(item.name, item.error or reason)
                shard.add({"unit": number, "index": index} | row)
        return Done(number, shard.rows, shard.failed)

    def _shard(self, number: int) -> AbstractContextManager[Shard]:
        place, out = self._places.find(self._job.out)
        path = f"{out}/{part_name(number, self._job.form)}"
        return new_shard(place, path, self._job.form, traces=self._job.traces)

    def _rows(self, units: Iterator[Numbered]) -> Iterator[tuple[_Begun, Row | None]]:
        """Yield every item with its row, and at the end of a unit no row."""
        begun: deque[_Begun] = deque()
        batches = self._batches(units, begun)
        while True:
            try:
                for result in self._captions(batches):
                    yield from self._known(begun)
                    yield begun[0], self._row(begun.popleft(), result)
                    yield from self._known(begun)
                yield from self._known(begun)
                return
            except (RegardError, OSError):
                raise
            except Exception:
                ended = getgeneratorstate(batches) == GEN_CLOSED
                if ended and not (begun and begun[-1] is _LAST):
                    raise  # it came from the source itself, which cannot go on
                # An item that nobody foresaw took its batch with it. Those that were begun are
                # done again one by one, so that it fails alone.
                yield from self._one_by_one(begun)

    def _captions(self, batches: Iterable[_Batch]) -> Iterator[Caption | Failure]:
        return self._router.caption_batches(batches, keep_pixels=False, **self._job.options)

    def _known(self, begun: deque[_Begun]) -> Iterator[tuple[_Begun, Row | None]]:
        """Take off what needs no captioning, as far as it stands in front."""
        while begun and (begun[0].item is None or begun[0].item.source is None):
            first = begun.popleft()
            if first is not _LAST:
                yield first, first.item and failed_row(first.item.name, first.item.error)

    def _one_by_one(self, begun: deque[_Begun]) -> Iterator[tuple[_Begun, Row | None]]:
        while begun:
            yield from self._known(begun)
            if not begun:
                return
            first = begun.popleft()
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
        self, units: Iterator[Numbered], begun: deque[_Begun]
    ) -> Generator[_Batch, None, None]:
        """Yield a unit's items in batches, which depend on nothing but the unit.

        Every item is put on `begun` before the batch that it is in, and every unit's end.
        """
        for number, unit in units:
            batch: list[Source] = []
            medium = ""
            for index, item in enumerate(items_of(unit, self._job.source, self._places)):
                if item.source is None:
                    begun.append(_Begun(number, index, item))
                    continue
                full = len(batch) == self._at_once(item.medium)
                if batch and (full or item.medium != medium):
                    yield medium, batch
                    batch = []
                begun.append(_Begun(number, index, item))
                medium = item.medium
                batch.append(item.source)
            if batch:
                yield medium, batch
            begun.append(_Begun(number))
        begun.append(_LAST)

    def _at_once(self, medium: str) -> int:
        """Return how many items of a medium go together; see that its model is the plan's."""
        if medium not in self._limits:
            wanted = self._models[medium]
            if model_digest(find_model(self._job.model, medium)) != wanted["digest"]:
                raise ConfigError(
                    f"the model {wanted['model']!r} here is not the one that the work was begun "
                    "with. Bring that one to every machine."
                )
            self._limits[medium] = self._router.items_at_once(medium, self._job.batch_size)
        return self._limits[medium]

    def _row(self, begun: _Begun, result: Caption | Failure) -> Row:
        if isinstance(result, Failure):
            return failed_row(result.file, str(result.error))
        row = caption_row(result, traces=self._job.traces)
        return row | {"model_digest": self._models[result.medium]["digest"]}
