"""Where files lie: this machine's disks, or any file system that pyarrow or fsspec opens.

A path is what its place calls a file; a URL names both. `s3://bucket/key?region=...` and the like
are opened by pyarrow, whose options stand in the query; what pyarrow does not know by fsspec, and
its query is part of the path, as of http.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from regard.errors import ConfigError, MissingExtra

_URL = re.compile(r"([A-Za-z][\w+.-]*)://([^/?]*)(.*?)(\?\w+=[^&?*\[]*(?:&\w+=[^&?*\[]*)*)?", re.S)
_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "mock")
"""Schemes that pyarrow opens, with the options in the query."""
_OBJECT_STORES = ("s3", "gcs", "abfs")
"""An object is there once all of it is, so that it needs no other name until then."""
_BUFFER = 2**16  # bytes that are asked of a place at a time where few are wanted
NEW = ".new"
"""How the name ends of what is being written."""


@dataclass(frozen=True)
class Entry:
    """A file or folder: its path, whether it is a folder, its size in bytes where known."""

    path: str
    is_folder: bool
    size: int | None


class Place(ABC):
    """A file system."""

    is_local = False

    @abstractmethod
    def entries(self, folder: str) -> Iterator[Entry]:
        """Yield what lies directly in a folder, as sorted paths are, a folder's with a slash."""

    @abstractmethod
    def info(self, path: str) -> Entry | None:
        """Return what lies at a path; None where nothing does."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open a file to be read from any position."""

    @abstractmethod
    def put(self, finished: Path, path: str) -> None:
        """Bring a finished file of this machine to a path: whole, or not at all."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file that may be gone already."""

    @abstractmethod
    def scratch(self, path: str) -> Path:
        """Return a fresh name on this machine under which to write what `put` moves to a path."""

    @abstractmethod
    def url(self, path: str) -> str:
        """Return what messages and rows call a path; it holds no key and no password."""

    @contextmanager
    def whole(self, path: str) -> Generator[Path]:
        """Give a file of this machine to write; it is at the path once all of it is written."""
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
    """This machine's disks."""

    is_local = True

    def entries(self, folder: str) -> Iterator[Entry]:
        """See `Place`; hidden names are left out."""
        with os.scandir(folder) as found:
            # Names alone: what is known of 100,000 files more than that takes long, and room.
            names = sorted(
                e.name + "/" * e.is_dir(follow_symlinks=False)
                for e in found
                if not e.name.startswith(".")
            )
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
        """See `Place`: beside the path, where renaming moves nothing."""
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        folder, name = os.path.split(path)
        return Path(folder, f".{name}.{uuid4().hex}{NEW}")

    def url(self, path: str) -> str:
        """See `Place`."""
        return path


class ArrowPlace(Place):
    """A file system of pyarrow's."""

    def __init__(self, files: Any, prefix: str, root: str) -> None:
        """Take it.

        Args:
            files: `pyarrow.fs.FileSystem`.
            prefix: such as "s3://", which before a path without `root` makes a URL.
            root: with which its paths begin and URLs do not.
        """
        from pyarrow import fs

        self._fs, self._files, self._prefix, self._root = fs, files, prefix, root

    def entries(self, folder: str) -> Iterator[Entry]:
        """See `Place`; hidden names are left out."""
        selector = self._fs.FileSelector(folder, allow_not_found=True)
        found = [i for i in self._files.get_file_info(selector) if not i.base_name.startswith(".")]
        made = [self._entry(i) for i in found if i.path.rstrip("/") != folder.rstrip("/")]
        yield from sorted(made, key=lambda e: e.path + "/" * e.is_folder)

    def info(self, path: str) -> Entry | None:
        """See `Place`."""
        found = self._files.get_file_info(path)
        return None if found.type == self._fs.FileType.NotFound else self._entry(found)

    def _entry(self, info: Any) -> Entry:
        return Entry(info.path, info.type == self._fs.FileType.Directory, info.size)

    def open(self, path: str) -> BinaryIO:
        """See `Place`."""
        # pyarrow's own file gives no lines.
        return io.BufferedReader(self._files.open_input_file(path), _BUFFER)

    def put(self, finished: Path, path: str) -> None:
        """See `Place`."""
        at_once = self._files.type_name in _OBJECT_STORES
        if not at_once:
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
        goal = path if at_once else f"{path}.{uuid4().hex}{NEW}"
        try:
            with finished.open("rb") as source, self._files.open_output_stream(goal) as target:
                shutil.copyfileobj(source, target, 2**20)
        except BaseException:
            self.delete(goal)  # closing may have made an object of the part that arrived
            raise
        if not at_once:
            self._files.move(goal, path)

    def delete(self, path: str) -> None:
        """See `Place`."""
        if self.info(path) is not None:
            self._files.delete_file(path)

    def scratch(self, path: str) -> Path:
        """See `Place`."""
        import tempfile

        handle, name = tempfile.mkstemp(prefix="regard-", suffix=NEW)
        os.close(handle)
        return Path(name)

    def url(self, path: str) -> str:
        """See `Place`."""
        return self._prefix + path.removeprefix(self._root)


class Places:
    """Finds the place of a URL or path, and opens each place once."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._open: dict[tuple[str, str, str], tuple[Place, str]] = {}
        self._local = LocalPlace()

    def find(self, url: str) -> tuple[Place, str]:
        """Return the place and the path there.

        Raises:
            ConfigError: the place cannot be opened.
            MissingExtra: it is not on this machine's disks, and pyarrow is not installed.
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
        """Return the place and path of what a list names: a URL, or a path from the list's folder.

        Args:
            source: URL of the job's source; its user and options are those of other URLs of its
                kind, too, which have none.
            path: the list's, in the place of the source.
            entry: as it stands there.
        """
        named, given = _parts(entry), _parts(source)
        if named is not None:
            scheme, host, rest, query = named
            if given and given[0] == scheme and not query and "@" not in host:
                user = "".join(given[1].rpartition("@")[:2])
                return self.find(f"{scheme}://{user}{host}{rest}{given[3]}")
            return self.find(entry)
        place, _ = self.find(source)
        if place.is_local:
            return place, os.path.join(os.path.dirname(path), entry)
        return place, f"{path.rpartition('/')[0]}/{entry.lstrip('/')}"


def shown(url: str) -> str:
    """Return a URL without user, password and options, which are for nobody else to read."""
    parts = _parts(url)
    if parts is None:
        return url
    scheme, host, path, _ = parts
    return f"{scheme}://{host.rpartition('@')[2]}{path}"


def _parts(url: str) -> tuple[str, str, str, str] | None:
    """Return scheme, host with its user, path and options of a URL; None of a path."""
    found = _URL.fullmatch(url)
    if found is None:
        return None
    scheme, host, path, query = (part or "" for part in found.groups())
    return (scheme, host, path, query) if scheme in _ARROW else (scheme, host, path + query, "")


def _opened(scheme: str, host: str, query: str) -> tuple[Place, str]:
    name = f"{scheme}://{host.rpartition('@')[2]}"
    try:
        import pyarrow
        from pyarrow import fs
    except ImportError as error:
        raise MissingExtra("pyarrow", "bulk", f"reading and writing at {name}") from error
    try:
        try:
            files, root = fs.FileSystem.from_uri(f"{scheme}://{host}/{query}")
        except pyarrow.ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise
            return _by_fsspec(fs, scheme, host)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{name} cannot be opened: {' '.join(str(error).split())}") from error
    in_bucket = files.type_name in _OBJECT_STORES
    return ArrowPlace(files, f"{scheme}://" if in_bucket else name, ""), root


def _by_fsspec(fs: Any, scheme: str, host: str) -> tuple[Place, str]:
    from fsspec.core import url_to_fs

    files, root = url_to_fs(f"{scheme}://{host}/")
    root = root.rstrip("/")
    place = ArrowPlace(fs.PyFileSystem(fs.FSSpecHandler(files)), f"{scheme}://{host}", root)
    return place, root


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None  # a broken link; whoever reads it says so
