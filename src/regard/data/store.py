"""The annotation store: encode once, train many times.

It is a folder of shards. Each shard is a float16 .npy file (rows, L, D) and a JSON list of the
picture (clip, scan) and view of every row, the CRC-32 of its bytes, and the mask of its real cells
if not all are (a clip with fewer frames than the grid; a scan smaller than the input). The list is
named by its own digest, and a row is compared with its CRC-32 when it is first read. Rows are read
rather than mapped: a mapped file that is cut short would end the process. A shard is written
under a temporary name and renamed when it is complete, its list last: a killed encoding leaves
nothing half-written and continues from the last shard, one that is stopped or fails writes what
it has. `store.json` names the encoder.
"""

import contextlib
import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import DatasetError
from regard.util.atomic import whole_file, write_whole
from regard.util.folder_lock import Report, ignore, locked
from regard.util.safe_io import Unreadable, json_of, text_of

Wanted = tuple[str, str, str]
"""A picture's digest, a view, and the file."""
Encode = Callable[[list[tuple[str, str]]], tuple[np.ndarray, np.ndarray]]
"""Maps (file, view) pairs to vectors and mask."""
STORE = "store.json"
"""The file that makes a folder a store."""
SHARD_ROWS = 512
_LARGEST = 2**20  # cells of an axis, or features
_SHARD_BYTES = 2**28  # a shard is built in memory, so those of long clips have fewer rows
_SHARD_SECONDS = 30.0  # of encoding; a kill loses at most that
_SHARD_SHARE = 0.02  # of the time so far, if that is more: days of encoding make few shards
_STALE = 24 * 3600.0  # seconds
_AGAIN = "Delete it and its .json; the next run encodes its pictures again."


@dataclass(frozen=True)
class StoreKey:
    """The settings that annotations depend on. Stores with different keys never mix.

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
        return {"format_version": 1} | asdict(self) | {"grid_shape": list(self.grid_shape)}


class AnnotationStore:
    """Annotation vectors of many pictures on disk, by the picture's digest and view."""

    def __init__(self, folder: str | Path, key: StoreKey) -> None:
        """Open a store, or create one.

        Args:
            folder: the store's folder; created if it does not exist.
            key: key of the encoder.

        Raises:
            DatasetError: the store is damaged or of another encoder or preprocessing, or the
                folder cannot be created.
        """
        self.folder = Path(folder)
        self.key = key
        self._rows: dict[tuple[str, str], tuple[int, _StoredRow]] = {}
        self._shards: list[Path] = []
        self._read_before: set[tuple[str, str]] = set()
        self._open_or_begin()
        self._opened: set[Path] = set()
        self.refresh()

    @classmethod
    def of(cls, folder: str | Path) -> "AnnotationStore":
        """Open a store with the key that it names.

        Raises:
            DatasetError: it is damaged.
        """
        path = Path(folder) / STORE
        try:
            values = json_of(text_of(path))
            sizes: tuple[Any, ...] = (*values["grid_shape"], values["annotation_dim"])
            if not all(isinstance(size, int) and 0 < size <= _LARGEST for size in sizes):
                raise Unreadable(f"its sizes are {sizes}")
            key = StoreKey(values["encoder"], sizes[:-1], sizes[-1])
        except (Unreadable, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is damaged: {error}. Encode again.") from error
        return cls(folder, key)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, digest_and_view: tuple[str, str]) -> bool:
        return digest_and_view in self._rows

    @contextlib.contextmanager
    def locked(self, report: Report = ignore) -> Generator[None]:
        """Hold the store's lock while it is filled, and open what others have written before.

        Args:
            report: receives a line if the lock of a process that was killed is taken over.

        Raises:
            ConfigError: another process fills the store.
            DatasetError: the lock cannot be written.
        """
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.folder, "the encoding of another run", report))
            except OSError as error:
                raise self._unwritten(error) from error
            self.refresh()
            yield

    def refresh(self) -> None:
        """Open the shards that other processes have written since.

        Raises:
            DatasetError: one of them is damaged.
        """
        for listing in sorted(self.folder.glob("shard-*.json")):
            if listing not in self._opened:
                self._open_shard(listing)

    def check(self) -> list[str]:
        """Read every row; return what is wrong with the store, a line for each damaged shard."""
        faults: dict[int, str] = {}
        self._read_before.clear()
        for pair, place in self._rows.items():
            if place[0] not in faults:
                try:
                    self.read([pair])
                except DatasetError as error:
                    faults[place[0]] = str(error)
        return list(faults.values())

    def read(self, wanted: Iterable[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of (digest, view) pairs, (N, L, D) float16, and mask (N, L) bool.

        Raises:
            DatasetError: a pair is not in the store, or its vectors are damaged.
        """
        wanted = list(wanted)
        vectors = np.empty((len(wanted), *self.row_shape), np.float16)
        masks = np.ones(vectors.shape[:2], bool)
        for at, (digest, view) in enumerate(wanted):
            place = self._rows.get((digest, view))
            if place is None:
                raise DatasetError(
                    f"the store {self.folder} holds no {view} annotations of the picture "
                    f"{digest[:12]}…. Encode the data set again; stored annotations are kept."
                )
            shard, row = place
            fault = _read_row(self._shards[shard], row, vectors[at])
            if not fault and (digest, view) not in self._read_before:
                fault = _fault_of(vectors[at], row.crc)
            if fault:
                raise DatasetError(f"the shard {self._shards[shard]} is damaged: {fault}. {_AGAIN}")
            self._read_before.add((digest, view))
            masks[at] = _mask(row.real, self.row_shape[0])
        return vectors, masks

    def fill(
        self, wanted: Iterable[Wanted], encode: Encode, batch_size: int = 32
    ) -> Generator[int]:
        """Encode what is missing, shard by shard.

        What is encoded is written even if the generator ends early (by an error, Ctrl-C, or a
        caller that closes it).

        Args:
            wanted: (digest, view, file) of every picture and view.
            encode: maps [(file, view), ...] to vectors (N, L, D) and mask (N, L).
            batch_size: pictures per call of `encode`.

        Yields:
            The number of rows in the store, after every batch.

        Raises:
            DatasetError: a shard cannot be written; those before it are complete.
        """
        missing = [w for w in dict.fromkeys(wanted) if (w[0], w[1]) not in self._rows]
        done, began = len(self._rows), time.monotonic()
        cells, features = self.row_shape
        rows = max(1, min(SHARD_ROWS, _SHARD_BYTES // (2 * cells * features)))
        for start in range(0, len(missing), rows):
            part = missing[start : start + rows]
            yield from self._fill_shard(part, encode, batch_size, began, done + start)

    def _fill_shard(
        self, wanted: list[Wanted], encode: Encode, batch_size: int, began: float, before: int
    ) -> Generator[int]:
        """Encode the rows of one shard, or of several if encoding takes long."""
        pairs = [(digest, view) for digest, view, _ in wanted]
        vectors = np.empty((len(wanted), *self.row_shape), np.float16)
        real = np.empty(vectors.shape[:2], bool)
        made, unwritten, due = 0, slice(0, 0), _next_due(began)
        try:
            for at in range(0, len(wanted), batch_size):
                batch = slice(at, at + batch_size)
                found = encode([(file, view) for _, view, file in wanted[batch]])
                with np.errstate(over="ignore"):
                    vectors[batch], real[batch] = found
                for (_, _, file), row in zip(wanted[batch], vectors[batch], strict=True):
                    if not np.isfinite(row).all():
                        raise DatasetError(
                            f"the encoder's vectors of {file} are not finite (NaN, or more than "
                            "float16 holds), so they are not stored. Leave the file out, or use "
                            "other weights of the encoder."
                        )
                made += len(wanted[batch])
                unwritten = slice(unwritten.start, made)
                yield before + made
                if time.monotonic() >= due:
                    self._write_shard(vectors[unwritten], pairs[unwritten], real[unwritten])
                    unwritten, due = slice(made, made), _next_due(began)
        finally:
            if pairs[unwritten]:
                self._write_shard(vectors[unwritten], pairs[unwritten], real[unwritten])

    @property
    def row_shape(self) -> tuple[int, int]:
        """(L, D)."""
        return int(np.prod(self.key.grid_shape)), self.key.annotation_dim

    def _open_or_begin(self) -> None:
        path = self.folder / STORE
        wanted = self.key.to_json()
        for left in self.folder.glob(".new-*"):  # of killed runs; recent ones may be in use
            with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
                if time.time() - left.stat().st_mtime > _STALE:
                    left.unlink()
        if not path.exists():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_whole(path, json.dumps(wanted))
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
                f"{' and '.join(differing)}, so its vectors do not fit this encoder. Set "
                "data.store to another folder, or delete this one."
            )

    def _open_shard(self, listing: Path) -> None:
        try:
            cells, text = self.row_shape[0], text_of(listing)
            if listing.stem != _name_of(text):
                raise Unreadable("its list differs from its digest")
            shape, dtype, offset = _header(listing.with_suffix(".npy"))
            size = 2 * cells * self.row_shape[1]
            rows = [
                _row(cells, offset + number * size, *entry)
                for number, entry in enumerate(json_of(text))
            ]
        except Exception as error:  # the parser of a damaged .npy header may raise anything
            raise DatasetError(
                f"the shard {listing.with_suffix('.npy')} is damaged: {error}. {_AGAIN}"
            ) from error
        if shape != (len(rows), *self.row_shape) or dtype != np.float16:
            raise DatasetError(
                f"the shard {listing.with_suffix('.npy')} holds {dtype}{shape}; "
                f"its list says float16 {(len(rows), *self.row_shape)}. Delete both."
            )
        for pair, row in rows:
            self._rows[pair] = (len(self._shards), row)
        self._shards.append(listing.with_suffix(".npy"))
        self._opened.add(listing)

    def _write_shard(
        self, vectors: np.ndarray, pairs: list[tuple[str, str]], real: np.ndarray
    ) -> None:
        # Named by its content, so that two runs that fill one store do not replace each other's
        # shards.
        rows = [
            (*pair, "" if mask.all() else np.packbits(mask).tobytes().hex(), zlib.crc32(row))
            for pair, mask, row in zip(pairs, real, vectors, strict=True)
        ]
        content = json.dumps(rows)
        listing = self.folder / f"{_name_of(content)}.json"
        try:
            with whole_file(listing.with_suffix(".npy")) as new, new.open("wb") as file:
                np.save(file, vectors)
                file.flush()
                os.fsync(file.fileno())
            write_whole(listing, content)
        except OSError as error:
            raise self._unwritten(error) from error
        self._open_shard(listing)

    def _unwritten(self, error: OSError) -> DatasetError:
        return DatasetError(
            f"the annotation store {self.folder} cannot be written: {error.strerror or error}. "
            "What it holds is complete, and the same command continues from there. Free some "
            "space, or set data.store to another folder."
        )


def _next_due(began: float) -> float:
    """Return the latest time to write the current shard, given the start of encoding."""
    now = time.monotonic()
    return now + max(_SHARD_SECONDS, _SHARD_SHARE * (now - began))


@dataclass(frozen=True)
class _StoredRow:
    """Where the vectors of a picture are.

    Attributes:
        offset: of their bytes in the shard.
        real: mask of the cells as hexadecimal bits; "" if all are real.
        crc: CRC-32 of their bytes; None in stores of older versions.
    """

    offset: int
    real: str
    crc: int | None


def _name_of(listing: str) -> str:
    """Return the name of a shard, without suffix, by the text of its list."""
    return f"shard-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"


def _header(path: Path) -> tuple[tuple[int, ...], Any, int]:
    """Return shape, type and offset of the values in a .npy file, which is complete.

    Raises:
        ValueError: it is not one, or has another size.
    """
    if not path.is_file():  # opening a pipe would block
        raise FileNotFoundError("the file does not exist")
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it is of another version of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    wanted = offset + math.prod(shape) * dtype.itemsize
    if fortran or path.stat().st_size != wanted:
        raise ValueError(f"it has {path.stat().st_size} bytes, expected {wanted}")
    return shape, dtype, offset


def _read_row(path: Path, row: _StoredRow, vectors: np.ndarray) -> str:
    """Fill vectors from a shard; return what went wrong, or ""."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(row.offset)
            read = file.readinto(vectors.view(np.uint8).data)
    except OSError as error:
        return error.strerror or str(error)
    return "" if read == vectors.nbytes else "it has been cut short since it was opened"


def _fault_of(vectors: np.ndarray, crc: int | None) -> str:
    if crc is not None and zlib.crc32(vectors.data) != crc:
        return "the bytes of a row differ from their digest"
    return "" if np.isfinite(vectors).all() else "it holds NaN or infinite values"


def _row(
    cells: int, offset: int, digest: Any, view: Any, real: Any = "", crc: Any = None
) -> tuple[tuple[str, str], _StoredRow]:
    """Return a row's picture and view, and where it is.

    Raises:
        TypeError: the picture, the view or the mask is not a string, or the digest not a number.
        ValueError: the mask has another number of cells.
    """
    if not (isinstance(digest, str) and isinstance(view, str) and isinstance(real, str)):
        raise TypeError(f"a row of its list is {digest!r:.100}, {view!r:.100}, {real!r:.100}")
    if real and len(bytes.fromhex(real)) != -(-cells // 8):
        raise ValueError(f"a mask of its list is not one of {cells} cells")
    if not (crc is None or isinstance(crc, int)):
        raise TypeError(f"a digest of its list is {crc!r:.100}")
    return (digest, view), _StoredRow(offset, real, crc)


def _mask(real: str, cells: int) -> np.ndarray:
    if not real:
        return np.ones(cells, bool)
    bits = np.frombuffer(bytes.fromhex(real), np.uint8)
    return np.unpackbits(bits, count=cells).astype(bool)
