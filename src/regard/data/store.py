"""The annotation store: encode once, train many times.

A folder of shards, each a float16 .npy file (rows, L, D) that is memory-mapped, beside a JSON
list that says which picture (clip, scan) and view every row is, and which of its cells are
real, where not all are (a clip of fewer frames than the grid has; a scan smaller than the
input). A shard is written under a temporary name and renamed when whole, its list last, so that a
killed encoding leaves nothing half-written and goes on from the last shard; one that is stopped
or fails first writes what it has. `store.json` says which encoder made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import DatasetError
from regard.util.atomic import whole_file
from regard.util.safe_io import Unreadable, json_of, text_of

SHARD_ROWS = 512
_SHARD_BYTES = 2**28  # a shard is made in memory: fewer rows of a long clip's many cells
_SHARD_SECONDS = 30.0  # of encoding, which are all that a kill loses
_SHARD_SHARE = 0.02  # of the encoding's time so far, where that is more: days make no 1000 shards
_STALE = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class StoreKey:
    """What annotations depend on; two stores with different keys never mix.

    Attributes:
        encoder: digest of the encoder's weights, level and preprocessing.
        grid_shape: cells along each axis.
        annotation_dim: D.
    """

    encoder: str
    grid_shape: tuple[int, ...]
    annotation_dim: int

    def to_json(self) -> dict[str, Any]:
        """Return the content of `store.json`."""
        return {
            "format_version": 1,
            "encoder": self.encoder,
            "grid_shape": list(self.grid_shape),
            "annotation_dim": self.annotation_dim,
        }


class AnnotationStore:
    """Annotation vectors of many pictures on disk, found by the picture's digest and view."""

    def __init__(self, folder: str | Path, key: StoreKey) -> None:
        """Open a store, or begin one.

        Args:
            folder: the store's folder; made where it does not exist.
            key: the encoder that reads and writes it.

        Raises:
            DatasetError: the folder holds a store made by another encoder or preprocessing,
                or a damaged one; or it cannot be made.
        """
        self.folder = Path(folder)
        self.key = key
        self._rows: dict[tuple[str, str], tuple[int, int, str]] = {}
        self._shards: list[np.ndarray] = []
        self._open_or_begin()
        self._opened: set[Path] = set()
        self.refresh()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, digest_and_view: tuple[str, str]) -> bool:
        return digest_and_view in self._rows

    def refresh(self) -> None:
        """Open the shards that others have written since.

        Raises:
            DatasetError: one of them is damaged.
        """
        for listing in sorted(self.folder.glob("shard-*.json")):
            if listing not in self._opened:
                self._open_shard(listing)

    def read(self, wanted: Iterable[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of (digest, view) pairs, (N, L, D) float16, and mask (N, L) bool.

        Raises:
            DatasetError: a pair is not in the store.
        """
        rows: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        for digest, view in wanted:
            place = self._rows.get((digest, view))
            if place is None:
                raise DatasetError(
                    f"the store {self.folder} holds no {view} annotations of the picture "
                    f"{digest[:12]}…. Encode the data set again; what is there is kept."
                )
            rows.append(self._shards[place[0]][place[1]])
            masks.append(_mask(place[2], self._row_shape()[0]))
        return np.stack(rows), np.stack(masks)

    def fill(
        self,
        wanted: Iterable[tuple[str, str, str]],
        encode: Callable[[list[tuple[str, str]]], tuple[np.ndarray, np.ndarray]],
        batch_size: int = 32,
    ) -> Generator[int]:
        """Encode what is missing, shard by shard.

        However it ends (an error, Ctrl-C, a caller that closes it), what is encoded is written.

        Args:
            wanted: (digest, view, file) of every picture and view.
            encode: maps [(file, view), ...] to vectors (N, L, D) and mask (N, L).
            batch_size: pictures per call of `encode`.

        Yields:
            How many rows are in the store, after every batch.

        Raises:
            DatasetError: a shard cannot be written; those before it are whole.
        """
        missing = [w for w in dict.fromkeys(wanted) if (w[0], w[1]) not in self._rows]
        done, began = len(self._rows), time.monotonic()
        cells, features = self._row_shape()
        rows = max(1, min(SHARD_ROWS, _SHARD_BYTES // (2 * cells * features)))
        for start in range(0, len(missing), rows):
            part = missing[start : start + rows]
            yield from self._fill_shard(part, encode, batch_size, began, done + start)

    def _fill_shard(
        self,
        wanted: list[tuple[str, str, str]],
        encode: Callable[[list[tuple[str, str]]], tuple[np.ndarray, np.ndarray]],
        batch_size: int,
        began: float,
        before: int,
    ) -> Generator[int]:
        """Encode the rows of one shard, which becomes several where they take long."""
        pairs = [(digest, view) for digest, view, _ in wanted]
        vectors = np.empty((len(wanted), *self._row_shape()), np.float16)
        real = np.empty(vectors.shape[:2], bool)
        made, unwritten, due = 0, slice(0, 0), _next_due(began)
        try:
            for at in range(0, len(wanted), batch_size):
                batch = slice(at, at + batch_size)
                found = encode([(file, view) for _, view, file in wanted[batch]])
                vectors[batch], real[batch] = found
                made += len(wanted[batch])
                unwritten = slice(unwritten.start, made)
                yield before + made
                if time.monotonic() >= due:
                    self._write_shard(vectors[unwritten], pairs[unwritten], real[unwritten])
                    unwritten, due = slice(made, made), _next_due(began)
        finally:
            if pairs[unwritten]:
                self._write_shard(vectors[unwritten], pairs[unwritten], real[unwritten])

    def _row_shape(self) -> tuple[int, int]:
        return int(np.prod(self.key.grid_shape)), self.key.annotation_dim

    def _open_or_begin(self) -> None:
        path = self.folder / "store.json"
        wanted = self.key.to_json()
        for left in self.folder.glob(".new-*"):  # by a kill; what is young another run may write
            with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
                if time.time() - left.stat().st_mtime > _STALE:
                    left.unlink()
        if not path.exists():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                _write_whole(path, json.dumps(wanted).encode())
            except OSError as error:
                raise self._unwritten(error) from error
            return
        try:
            found = json_of(text_of(path))
            if not isinstance(found, dict):
                raise Unreadable(f"it holds {type(found).__name__}")
        except Unreadable as error:
            raise DatasetError(
                f"{path} is damaged: {error}. Delete the folder and encode again."
            ) from error
        if found != wanted:
            differing = [k for k in wanted if found.get(k) != wanted[k]] or ["version of regard"]
            raise DatasetError(
                f"the annotation store {self.folder} was made with another "
                f"{' and '.join(differing)}; its vectors mean something else to this encoder. "
                "Name another folder in data.store, or delete this one."
            )

    def _open_shard(self, listing: Path) -> None:
        try:
            cells = self._row_shape()[0]
            rows = [_row(cells, *entry) for entry in json_of(text_of(listing))]
            vectors = _mapped(listing.with_suffix(".npy"))
        except Exception as error:  # a header that is no Python raises whatever its parser does
            raise DatasetError(
                f"the shard {listing.with_suffix('.npy')} is damaged: {error}. Delete it and its "
                ".json; the next run encodes its pictures again."
            ) from error
        if vectors.shape != (len(rows), *self._row_shape()) or vectors.dtype != np.float16:
            raise DatasetError(
                f"the shard {listing.with_suffix('.npy')} holds {vectors.dtype}{vectors.shape}; "
                f"its list says float16 {(len(rows), *self._row_shape())}. Delete both."
            )
        for at, (pair, real) in enumerate(rows):
            self._rows[pair] = (len(self._shards), at, real)
        self._shards.append(vectors)
        self._opened.add(listing)

    def _write_shard(
        self, vectors: np.ndarray, pairs: list[tuple[str, str]], real: np.ndarray
    ) -> None:
        # Named by what it holds, so that two runs that fill one store do not replace each
        # other's shards.
        rows = [
            pair if mask.all() else (*pair, np.packbits(mask).tobytes().hex())
            for pair, mask in zip(pairs, real, strict=True)
        ]
        content = json.dumps(rows).encode()
        listing = self.folder / f"shard-{hashlib.sha256(content).hexdigest()[:16]}.json"
        try:
            with whole_file(listing.with_suffix(".npy")) as new, new.open("wb") as file:
                np.save(file, vectors)
                file.flush()
                os.fsync(file.fileno())
            _write_whole(listing, content)
        except OSError as error:
            raise self._unwritten(error) from error
        self._open_shard(listing)

    def _unwritten(self, error: OSError) -> DatasetError:
        return DatasetError(
            f"the annotation store {self.folder} cannot be written: {error.strerror or error}. "
            "What it holds is whole, and the same command goes on from there. Free some space, "
            "or name another folder in data.store."
        )


def _next_due(began: float) -> float:
    """Return when a shard is written at the latest, in an encoding that began then."""
    now = time.monotonic()
    return now + max(_SHARD_SECONDS, _SHARD_SHARE * (now - began))


def _mapped(path: Path) -> np.ndarray:
    if not path.is_file():  # a pipe would wait for ever
        raise FileNotFoundError("there is no such file")
    return np.lib.format.open_memmap(path, mode="r")  # which knows no pickles and no archives


def _row(cells: int, digest: Any, view: Any, real: Any = "") -> tuple[tuple[str, str], str]:
    """Return a row's picture and view, and its mask as hexadecimal bits; "" where all are real.

    Raises:
        TypeError: they are no text.
        ValueError: the mask is not one of so many cells.
    """
    if not (isinstance(digest, str) and isinstance(view, str) and isinstance(real, str)):
        raise TypeError(f"a row of its list is {digest!r:.100}, {view!r:.100}, {real!r:.100}")
    if real and len(bytes.fromhex(real)) != -(-cells // 8):
        raise ValueError(f"a mask of its list is not one of {cells} cells")
    return (digest, view), real


def _mask(real: str, cells: int) -> np.ndarray:
    if not real:
        return np.ones(cells, bool)
    bits = np.frombuffer(bytes.fromhex(real), np.uint8)
    return np.unpackbits(bits, count=cells).astype(bool)


def _write_whole(path: Path, content: bytes) -> None:
    with whole_file(path) as new:
        new.write_bytes(content)
