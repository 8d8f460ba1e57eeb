"""File systems: local disks, and any file system that pyarrow or fsspec opens.

A `Place` is a file system, and a path is the name of a file there; a URL names both. pyarrow opens
`s3://bucket/key?region=...` and the like, with its options in the query. fsspec opens what pyarrow
does not know; there the query is part of the path, as for http.
"""

import io
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from regard.errors import ConfigError, RegardError, needs_extra
from regard.util.folder_lock import Report, locked, locked_remotely
from regard.util.shown_text import without_secrets

_URL = re.compile(r"([A-Za-z][\w+.-]*)://([^/?]*)(.*?)(\?\w+=[^&?*\[]*(?:&\w+=[^&?*\[]*)*)?", re.S)
_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "mock")
"""Schemes that pyarrow opens, with its options in the query."""
_OBJECT_STORES = ("s3", "gcs", "abfs")
"""Stores in which an object exists only once it is complete, so it needs no temporary name."""
_READ_AHEAD = 2**16  # bytes per request to a remote file system
COMMAND = "regard bulk"
Check = Callable[[], None]
NEW = ".new"
"""Suffix of files that are being written."""


@dataclass(frozen=True)
class Entry:
    """A file or folder: its path, whether it is a folder, its size in bytes if known."""

    path: str
    is_folder: bool
    size: int | None


class Place(ABC):
    """A file system."""

    is_local = False

    @abstractmethod
    def entries(self, folder: str) -> Iterator[Entry]:
        """Yield the entries of a folder but hidden ones, sorted with a slash after folders."""

    @abstractmethod
    def info(self, path: str) -> Entry | None:
        """Return the entry at a path, or None."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open a file for reading from any position."""

    @abstractmethod
    def put(self, finished: Path, path: str) -> None:
        """Move a finished local file to a path, completely or not at all."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file if it exists."""

    @abstractmethod
    def scratch(self, path: str) -> Path:
        """Return a new local file name for writing what `put` then moves to a path."""

    @abstractmethod
    def url(self, path: str) -> str:
        """Return the name of a path in messages and rows, without keys and passwords."""

    def explain(self, error: BaseException) -> str:
        """Return an error's message in one line, without keys and passwords."""
        return " ".join(without_secrets(str(error)).split()) or type(error).__name__

    @contextmanager
    def whole(self, path: str) -> Generator[Path]:
        """Yield a local file to write; it is moved to the path after the block."""
        scratch = self.scratch(path)
        try:
            yield scratch
            self.put(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        with self.open(path) as file:
            return file.read()


class LocalPlace(Place):
    """The disks of this machine."""

    is_local = True

    def entries(self, folder: str) -> Iterator[Entry]:
        """See `Place`."""
        with os.scandir(folder) as found:
            # Only names: more of 100,000 files would take time and memory.
            names = sorted(e.name + "/" * e.is_dir() for e in found if not e.name.startswith("."))
        for name in names:
            path = os.path.join(folder, name.removesuffix("/"))
            is_folder = name.endswith("/")
            yield Entry(path, is_folder, None if is_folder else _size(path))

    def info(self, path: str) -> Entry | None:
        """See `Place`."""
        if not os.path.exists(path):
            return None
        is_folder = os.path.isdir(path)
        return Entry(path, is_folder, None if is_folder else _size(path))

    def open(self, path: str) -> BinaryIO:
        """See `Place`."""
        return open(path, "rb")

    def put(self, finished: Path, path: str) -> None:
        """See `Place`."""
        with finished.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(finished, path)

    def delete(self, path: str) -> None:
        """See `Place`."""
        Path(path).unlink(missing_ok=True)

    def scratch(self, path: str) -> Path:
        """See `Place`: beside the path, so that renaming copies nothing."""
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        folder, name = os.path.split(path)
        return Path(folder, f".{name}.{uuid4().hex}{NEW}")

    def url(self, path: str) -> str:
        """See `Place`."""
        return path


class ArrowPlace(Place):
    """A file system of pyarrow."""

    def __init__(self, files: Any, prefix: str, root: str, opened: str = "") -> None:
        """Wrap it.

        Args:
            files: `pyarrow.fs.FileSystem`.
            prefix: such as "s3://"; the prefix and a path make a URL.
            root: what the file system has before every path; it may hold a password.
            opened: the URL that opened it, whose secrets no message repeats.
        """
        from pyarrow import fs

        self._fs, self._files, self._prefix, self._root = fs, files, prefix, root
        self._opened = opened

    def entries(self, folder: str) -> Iterator[Entry]:
        """See `Place`."""
        selector = self._fs.FileSelector(self._root + folder, allow_not_found=True)
        found = [i for i in self._files.get_file_info(selector) if not i.base_name.startswith(".")]
        made = [e for e in map(self._entry, found) if e.path.rstrip("/") != folder.rstrip("/")]
        yield from sorted(made, key=lambda e: e.path + "/" * e.is_folder)

    def info(self, path: str) -> Entry | None:
        """See `Place`."""
        found = self._files.get_file_info(self._root + path)
        return None if found.type == self._fs.FileType.NotFound else self._entry(found)

    def _entry(self, info: Any) -> Entry:
        path = info.path.removeprefix(self._root)
        return Entry(path, info.type == self._fs.FileType.Directory, info.size)

    def open(self, path: str) -> BinaryIO:
        """See `Place`."""
        # pyarrow's own file cannot iterate over lines.
        return io.BufferedReader(self._files.open_input_file(self._root + path), _READ_AHEAD)

    def put(self, finished: Path, path: str) -> None:
        """See `Place`."""
        at_once = self._files.type_name in _OBJECT_STORES
        if not at_once:
            self._files.create_dir(self._root + path.rpartition("/")[0], recursive=True)
        goal = path if at_once else f"{path}.{uuid4().hex}{NEW}"
        try:
            with finished.open("rb") as source, self._writer(goal) as target:
                shutil.copyfileobj(source, target, 2**20)
        except BaseException:
            self.delete(goal)  # closing may have stored an incomplete object
            raise
        if not at_once:
            self._files.move(self._root + goal, self._root + path)

    def _writer(self, path: str) -> Any:
        return self._files.open_output_stream(self._root + path)

    def delete(self, path: str) -> None:
        """See `Place`."""
        if self.info(path) is not None:
            self._files.delete_file(self._root + path)

    def scratch(self, path: str) -> Path:
        """See `Place`."""
        import tempfile

        handle, name = tempfile.mkstemp(prefix="regard-", suffix=NEW)
        os.close(handle)
        return Path(name)

    def url(self, path: str) -> str:
        """See `Place`."""
        return without_secrets(self._prefix + path)

    def explain(self, error: BaseException) -> str:
        """See `Place`."""
        return without_secrets(super().explain(error), [self._opened])


class Places:
    """Finds the file system of a URL or path, and opens each one once."""

    def __init__(self) -> None:
        """Open only the local one."""
        self._open: dict[tuple[str, str, str], tuple[Place, str]] = {}
        self._local = LocalPlace()

    def find(self, url: str) -> tuple[Place, str]:
        """Return the place and the path there.

        Raises:
            ConfigError: the file system cannot be opened.
            MissingExtra: it is not local, and pyarrow is not installed.
        """
        parts = _parts(url)
        if parts is None:
            return self._local, url
        scheme, host, path, query = parts
        if scheme == "file":
            return self._local, path
        key = scheme, host, query
        if key not in self._open:
            self._open[key] = _opened(scheme, host, query)
        place, root = self._open[key]
        return place, f"{root.rstrip('/')}/{path.lstrip('/')}".removesuffix("/")

    def beside(self, source: str, path: str, entry: str) -> tuple[Place, str]:
        """Return the place and path of an entry of a list.

        Args:
            source: URL of the job's source. Its user and options go only to its own host, or
                bucket: URLs of the same scheme and host without user and options get them.
            path: path of the list, in the place of the source.
            entry: a URL, or a path relative to the list's folder.
        """
        named, given = _parts(entry), _parts(source)
        if named is not None:
            scheme, host, rest, query = named
            user, at, home = given[1].rpartition("@") if given else ("", "", "")
            same = given and given[0] == scheme and home.lower() == host.lower()
            if given and same and not query:
                user += at
                return self.find(f"{scheme}://{user}{host}{rest}{given[3]}")
            return self.find(entry)
        place, _ = self.find(source)
        if place.is_local:
            return place, os.path.join(os.path.dirname(path), entry)
        return place, f"{path.rpartition('/')[0]}/{entry.lstrip('/')}"


class _LockPlace:
    """The files of a folder of a `Place`, for its lock."""

    def __init__(self, place: Place, folder: str) -> None:
        self._place, self._folder = place, folder

    def names(self) -> list[str]:
        if self._place.info(self._folder) is None:
            return []
        return [os.path.basename(entry.path) for entry in self._place.entries(self._folder)]

    def read(self, name: str) -> bytes:
        return self._place.read(f"{self._folder}/{name}")

    def write(self, name: str, content: bytes) -> None:
        with self._place.whole(f"{self._folder}/{name}") as scratch:
            scratch.write_bytes(content)

    def delete(self, name: str) -> None:
        self._place.delete(f"{self._folder}/{name}")


@contextmanager
def locked_place(url: str, place: Place, folder: str, report: Report) -> Generator[Check]:
    """Hold the lock of a folder for rows; yield what raises if the lock is lost.

    Raises:
        ConfigError: another process holds it, or it cannot be written.
    """
    with ExitStack() as held:
        try:
            if place.is_local:
                held.enter_context(locked(Path(folder), COMMAND, report))
                check = _nothing_lost
            else:
                files = _LockPlace(place, folder)
                check = held.enter_context(locked_remotely(files, shown(url), COMMAND, report))
        except RegardError:
            raise
        except Exception as error:  # file systems raise exceptions of any class
            raise ConfigError(f"{shown(url)} cannot be written: {place.explain(error)}.") from error
        yield check


def _nothing_lost() -> None:
    """Do nothing: a lock on a disk is held until its process ends."""


def shown(url: str) -> str:
    """Return a URL without user, password, options and tokens, which may be secret."""
    parts = _parts(url)
    if parts is None:
        return without_secrets(url)
    scheme, host, path, _ = parts
    return without_secrets(f"{scheme}://{host}{path}")


def _parts(url: str) -> tuple[str, str, str, str] | None:
    """Return scheme, host with its user, path and options of a URL; None for a path."""
    found = _URL.fullmatch(url)
    if found is None:
        return None
    scheme, host, path, query = (part or "" for part in found.groups())
    return (scheme, host, path, query) if scheme in _ARROW else (scheme, host, path + query, "")


def _opened(scheme: str, host: str, query: str) -> tuple[Place, str]:
    name = f"{scheme}://{host.rpartition('@')[2]}"
    with needs_extra("pyarrow", "bulk", f"reading and writing at {name}"):
        import pyarrow
        from pyarrow import fs
    try:
        try:
            files, root = fs.FileSystem.from_uri(f"{scheme}://{host}/{query}")
        except pyarrow.ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise
            return _by_fsspec(fs, scheme, host)
    except Exception as error:  # those of fsspec raise exceptions of any class
        reason = " ".join(without_secrets(str(error), [f"{scheme}://{host}/{query}"]).split())
        raise ConfigError(f"{name} cannot be opened: {reason}") from error
    in_bucket = files.type_name in _OBJECT_STORES
    opened = f"{scheme}://{host}/{query}"
    return ArrowPlace(files, f"{scheme}://" if in_bucket else name, "", opened), root


def _by_fsspec(fs: Any, scheme: str, host: str) -> tuple[Place, str]:
    from fsspec.core import url_to_fs

    opened = f"{scheme}://{host}/"
    files, root = url_to_fs(opened)
    name = f"{scheme}://{host.rpartition('@')[2]}"
    handler = fs.PyFileSystem(fs.FSSpecHandler(files))
    return ArrowPlace(handler, name, root.rstrip("/"), opened), ""


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None  # a broken link, which is reported when it is read
