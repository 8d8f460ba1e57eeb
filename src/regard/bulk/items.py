"""From a unit to its items, each with a way to get its bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from regard.bulk.containers import files_of_tar, values_of_parquet
from regard.bulk.filesystem import Place, Places, shown
from regard.bulk.sources import Unit
from regard.captioner import Deferred
from regard.errors import MediaError, RegardError
from regard.media.find import medium_by_name, medium_of, medium_of_head

_TRIES = 3
_PAUSE = 0.5  # seconds before a second try; twice as long before a third


@dataclass(frozen=True)
class Item:
    """One thing to be captioned, or one that cannot be.

    Attributes:
        name: what rows and messages call it.
        medium: "image", "video" or "volume".
        source: gives its bytes or path; None where it cannot be captioned.
        error: why not; "" where it can.
    """

    name: str
    medium: str
    source: Deferred | None
    error: str = ""


def items_of(unit: Unit, source: str, places: Places) -> Iterator[Item]:
    """Yield a unit's items, in the order that they have in the source.

    Args:
        unit: of that source.
        source: path or URL, as the job names it.
        places: opens it.
    """
    place, _ = places.find(source)
    if unit.kind == "files":
        for path, error in unit.entries:
            name = place.url(path)
            yield _failed(name, error) if error else _file(name, place, path)
    elif unit.kind == "listed":
        for entry, error in unit.entries:
            yield (
                _failed(shown(entry), error) if error else _named(entry, unit.file, source, places)
            )
    elif unit.kind == "tar":
        for name, content, error in files_of_tar(place, unit.file, unit.at, unit.count):
            yield _failed(name, error) if content is None else _held(name, name, content)
    else:
        yield from _rows(unit, place, source, places)


def _rows(unit: Unit, place: Place, source: str, places: Places) -> Iterator[Item]:
    url, done = place.url(unit.file), 0
    assert unit.count is not None
    try:
        for value, inner in values_of_parquet(
            place, unit.file, unit.column, unit.group, unit.at, unit.count
        ):
            name = f"{url}#{unit.first + done}"
            done += 1
            if value is None:
                yield _failed(name, f"its column {unit.column!r} is empty.")
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
    except RegardError as error:
        return _failed(shown(entry), str(error))


def _file(name: str, place: Place, path: str) -> Item:
    if place.is_local:
        return Item(name, medium_of(path), Deferred(name, lambda: path))
    return Item(name, _medium(name), Deferred(name, _fetching(place, path, name)))


def _held(name: str, inner: str, content: bytes) -> Item:
    medium = medium_by_name(inner) or medium_of_head(content[:352])
    return Item(name, medium, Deferred(name, lambda: content))


def _failed(name: str, error: str) -> Item:
    return Item(name, _medium(name), None, error)


def _medium(name: str) -> str:
    named = medium_by_name(name) or medium_by_name(name.partition("?")[0])  # a URL's query
    return named or "image"  # whose reader says what is wrong


def _fetching(place: Place, path: str, name: str) -> Callable[[], bytes]:
    def fetch() -> bytes:
        for attempt in range(_TRIES):
            try:
                return place.read(path)
            except (FileNotFoundError, IsADirectoryError) as error:
                raise MediaError(f"{name} is not there.") from error
            except Exception as error:  # file systems raise what they like
                if attempt == _TRIES - 1:
                    reason = " ".join(str(error).split())
                    raise MediaError(
                        f"{name} could not be fetched, tried {_TRIES} times: {reason}"
                    ) from error
                time.sleep(_PAUSE * 2**attempt)
        raise AssertionError("the last try returns or raises")

    return fetch
