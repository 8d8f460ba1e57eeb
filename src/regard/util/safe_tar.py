"""Reading of untrusted tars: bounded headers and members, and no way back in the file."""

import tarfile
from typing import Any, BinaryIO

MAX_MEMBER = 2**30
"""Largest member in bytes that is read; larger ones are not media."""
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
