"""Samples of untrusted tars: bounded headers and members, and pictures joined with their captions.

The reader never goes back in a file. One bad entry is a fault of its own and leaves the others.
"""

import hashlib
import os
import tarfile
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

from regard.data.dataset import LineFault, texts_in
from regard.errors import DatasetError
from regard.types import MEDIA
from regard.util.safe_io import json_of

MAX_MEMBER = 2**30
"""Largest member in bytes that is read; larger ones are not media."""
_SUFFIXES = frozenset[str]().union(*(medium.suffixes for medium in MEDIA.values()))
_MAX_HEADER = 2**20  # bytes of a long name, or of a PAX header
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BoundedTarInfo(tarfile.TarInfo):
    """A member whose headers are bounded and whose size is checked before it is read."""

    def _proc_member(self, tar: Any) -> Any:
        # tarfile reads all bytes of such a header at once, and goes back by a negative size.
        if self.size < 0:
            raise tarfile.ReadError(f"a member has {self.size} bytes")
        if self.type in _HEADERS and self.size > _MAX_HEADER:
            raise tarfile.ReadError(
                f"a header of {self.size} bytes; at most {_MAX_HEADER} are read"
            )
        found: Any = super()._proc_member(tar)  # type: ignore[misc]
        if found.size < 0:
            raise tarfile.ReadError(f"a member has {found.size} bytes")
        return found


def open_tar(file: Any, mode: str) -> tarfile.TarFile:
    """Open a tar for reading; see `tarfile.open` for the mode."""
    return tarfile.open(fileobj=file, mode=mode, tarinfo=BoundedTarInfo)  # type: ignore[call-overload]


def next_member(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Return the next member, or None; the ones before it are forgotten.

    Raises:
        EOFError: the tar ends within a member; tarfile would go on for all the bytes it claims.
    """
    tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else all are kept
    stream: Any = tar.fileobj
    if tar.firstmember is not None:  # type: ignore[attr-defined]  # it was read on opening
        return tar.next()
    while hasattr(stream, "bufsize") and (left := tar.offset - stream.tell()) > 0:  # type: ignore[attr-defined]
        if not stream.read(min(2**20, left)):
            raise EOFError("it ends within a member")
    return tar.next()


def member_fault(member: tarfile.TarInfo) -> str:
    """Return why the bytes of a member are not read, or ""."""
    if not member.isreg():
        return "it is a link or a device; a file was expected."
    if member.issparse():
        return "it is stored as a sparse file. Write the tar without --sparse."
    if member.size > MAX_MEMBER:
        return f"it has {member.size:,} bytes; at most {MAX_MEMBER:,} are read."
    return ""


def member_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the bytes of a member without a fault.

    Raises:
        EOFError: the tar ends before.
    """
    file: BinaryIO | None = tar.extractfile(member)  # type: ignore[assignment]
    content = file.read(member.size) if file else b""
    if len(content) < member.size:
        raise EOFError(f"{member.name} has {len(content)} of {member.size} bytes")
    return content


@dataclass(frozen=True)
class Sample:
    """One picture of a shard.

    Attributes:
        name: key and suffix, as in the tar.
        offset: offset of its bytes in the tar.
        size: number of its bytes.
        sha256: SHA-256 of its bytes.
        file: its name in the data set.
        captions: raw texts.
        split: "train", "val", "test", or "".
    """

    name: str
    offset: int
    size: int
    sha256: str
    file: str
    captions: tuple[str, ...]
    split: str


def scan_samples(file: IO[bytes], name: str, faults: list[LineFault]) -> list[Sample]:
    """Return the samples of a tar, which is read once from end to end.

    Captions are the `captions` (a list) or the `caption` of a sample's .json, or its .txt; the
    .json may have `file` and `split`. The parts of a sample have the same name up to their last
    suffix, or up to their first dot, as in WebDataset.

    Args:
        file: the tar.
        name: name of the tar, for messages.
        faults: what is wrong with single entries is added.

    Raises:
        DatasetError: the tar itself is damaged.
    """
    media: dict[str, dict[str, Any]] = {}
    about: dict[str, dict[str, Any]] = {}
    try:
        with open_tar(file, "r|") as tar:
            while (member := next_member(tar)) is not None:
                key, suffix = _parts(member.name)
                if not suffix or member.isdir() or os.path.basename(member.name).startswith("."):
                    continue
                where = f"entry {member.name!r}"
                if not member.isreg():
                    faults.append(LineFault(where, "it is a link or a special file"))
                    continue
                if fault := member_fault(member):
                    faults.append(LineFault(where, fault))
                    continue
                content = member_content(tar, member)
                if suffix in (".json", ".txt"):
                    _add_text(about.setdefault(key, {}), suffix, content, where, faults)
                elif key in media:
                    faults.append(LineFault(where, f"{media[key]['name']!r} has the same key"))
                else:
                    digest = hashlib.sha256(content).hexdigest()
                    base = os.path.basename(member.name)
                    media[key] = {"name": base, "offset": member.offset_data}
                    media[key] |= {"size": len(content), "sha256": digest}
    except Exception as error:  # tarfile raises almost anything
        raise DatasetError(f"the shard {name} is damaged: {error}.") from error
    _join_by_first_dot(media, about)
    for key, said in about.items():
        if key not in media and ("caption" in said or "captions" in said):
            faults.append(LineFault(f"entry {key!r}", "it has a caption and no picture"))
    return [_sample(key, place, about.get(key, {}), faults) for key, place in media.items()]


def _parts(member: str) -> tuple[str, str]:
    """Return the key of a member and its suffix; "" if it belongs to no sample."""
    stem, suffix = os.path.splitext(member)
    if suffix.lower() == ".gz":
        stem, inner = os.path.splitext(stem)
        return stem, inner.lower() if inner.lower() in _SUFFIXES else ""
    known = suffix.lower() in _SUFFIXES or suffix.lower() in (".json", ".txt")
    return stem, suffix.lower() if known else ""


def _add_text(
    about: dict[str, Any], suffix: str, content: bytes, where: str, faults: list[LineFault]
) -> None:
    """Add what a .json or .txt says of a sample."""
    try:
        text = content.decode("utf-8-sig")
        if suffix == ".txt":
            about.setdefault("caption", text.strip())
            return
        said = json_of(text)
        if not isinstance(said, dict):
            raise ValueError(f"it holds {said!r:.100}; expected an object with captions")
        about |= said
    except ValueError as error:
        what = f"it is not UTF-8: {error}" if isinstance(error, UnicodeError) else str(error)
        faults.append(LineFault(where, what))


def _join_by_first_dot(media: dict[str, Any], about: dict[str, dict[str, Any]]) -> None:
    """Give captions whose key is that of no picture to the one that begins like them."""
    alone: dict[str, list[str]] = {}
    for key in media.keys() - about.keys():
        alone.setdefault(_first_part(key), []).append(key)
    for key in [key for key in about if key not in media]:
        fitting = alone.get(_first_part(key), [])
        if len(fitting) == 1 and fitting[0] not in about:
            about[fitting[0]] = about.pop(key)


def _first_part(key: str) -> str:
    folder, slash, base = key.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _sample(
    key: str, media: dict[str, Any], about: dict[str, Any], faults: list[LineFault]
) -> Sample:
    """Return a sample; without captions if those of its text cannot be used."""
    captions = about.get("captions", [about["caption"]] if "caption" in about else [])
    try:
        texts = tuple(texts_in(captions, f"the captions of {key}"))
    except TypeError as error:
        faults.append(LineFault(f"entry {key!r}", str(error)))
        texts = ()
    split = str(about.get("split") or "")
    kept = tuple(text for text in texts if text.strip())
    return Sample(**media, file=str(about.get("file", key)), captions=kept, split=split)
