"""WebDataset tars: files whose names agree up to the first dot are a sample.

Every picture, clip or scan in a tar is an item; a sample without any is an item that failed. What
else a sample holds is not read.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from regard.bulk.filesystem import Place
from regard.media.find import medium_by_name

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_BUFFER = 2**22  # bytes that are asked of a place at a time
_NO_MEDIA = "its sample holds no picture, clip or scan."
_FAULTS = (tarfile.TarError, OSError, EOFError, zlib.error)


def parts_of_tar(place: Place, path: str, size: int) -> Iterator[tuple[int, int | None]]:
    """Yield runs of whole samples: the byte where each begins, and how many items it has.

    Only headers are read, and only on this machine: elsewhere each would be a request of its own,
    and a compressed tar has no other way in than its beginning. Those are one run, of nobody knows
    how many items.

    Args:
        place: of the tar.
        path: there.
        size: items after which a run ends with its sample.
    """
    if not place.is_local or not path.lower().endswith(".tar"):
        yield 0, None
        return
    begun, count = 0, 0
    try:
        with place.open(path) as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            for _, begins, _ in _items(tar):
                if begins is not None and count >= size:
                    yield begun, count
                    begun, count = begins, 0
                count += 1
    except _FAULTS:
        yield begun, None  # whoever reads it says what is wrong
        return
    if count:
        yield begun, count


def files_of_tar(
    place: Place, path: str, at: int, count: int | None
) -> Iterator[tuple[str, bytes | None, str]]:
    """Yield the name of each item of a run, its bytes, and what is wrong with it, "" for nothing.

    A tar that is damaged ends with an item that says so.

    Args:
        place: of the tar.
        path: there.
        at: the byte where the run begins.
        count: items; None: to the end.
    """
    name, found = place.url(path), 0
    mode = "r|" if path.lower().endswith(".tar") else "r|gz"
    try:
        with place.open(path) as raw:
            raw.seek(at)
            # Not tarfile's own buffer: it copies all that is left in it at every read.
            buffered = io.BufferedReader(cast("io.RawIOBase", raw), _BUFFER)
            with tarfile.open(fileobj=buffered, mode=mode) as tar:
                for member, _, fault in _items(tar):
                    content = None if fault else _content(tar, member)
                    found += 1
                    yield f"{name}#{member.name}", content, fault
                    if found == count:
                        return
    except _FAULTS as error:
        yield name, None, f"the tar is damaged after {found} items: {error or 'it ends'}."


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: BinaryIO | None = tar.extractfile(member)  # type: ignore[assignment]
    content = file.read() if file else b""
    if len(content) < member.size:
        raise EOFError(f"{member.name} has {len(content)} of {member.size} bytes")
    return content


def _items(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, int | None, str]]:
    """Yield a member for each item, where its sample begins, and what is wrong with it.

    Where the sample begins is given with its first item only.
    """
    first: tarfile.TarInfo | None = None
    key, items = "", 0
    while (member := tar.next()) is not None:
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it would keep them all
        base = os.path.basename(member.name)
        if member.isdir() or base.startswith((".", "__")):
            continue
        own = os.path.join(os.path.dirname(member.name), base.split(".")[0])
        if first is None or own != key:
            if first is not None and not items:
                yield first, first.offset, _NO_MEDIA
            key, first, items = own, member, 0
        if medium_by_name(member.name) is not None:
            items += 1
            fault = "" if member.isreg() else "it is a link or a device; a file was wanted."
            yield member, first.offset if items == 1 else None, fault
    if first is not None and not items:
        yield first, first.offset, _NO_MEDIA
