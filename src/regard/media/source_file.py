"""Source files: opening, size limits, and silencing of the libraries' logs."""

import logging
import threading
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from regard.errors import MediaError, MediaTooLarge


def is_dicom(head: bytes) -> bool:
    """Return whether the first 132 bytes of a file are those of DICOM."""
    return head[128:132] == b"DICM"


def read_start(path: str | Path, name: str, count: int) -> bytes:
    """Return the first bytes of a file; all bytes of a shorter one.

    Args:
        path: a file or a pipe.
        name: used in error messages.
        count: bytes to read at most.

    Raises:
        MediaError: the file cannot be opened or read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror}.") from error
    except (ValueError, MemoryError) as error:  # a null byte in the path; not enough memory
        raise MediaError(f"{name!r} cannot be read: {error or 'out of memory'}.") from error


def refuse_empty(size: int, name: str) -> None:
    """Raise `MediaError` if a file has no bytes."""
    if not size:
        raise MediaError(f"{name} is empty (0 bytes). Copy or download the file again.")


def refuse_size(
    height: int, width: int, name: str, max_pixels: int, *, least: int = 0, what: str = ""
) -> None:
    """Raise `MediaTooLarge` unless a picture has from `least` to `max_pixels` pixels."""
    if not least <= height * width <= max_pixels:
        raise MediaTooLarge(
            f"{name} has {what}{width}×{height} pixels; expected at least {max(1, least)} and at "
            f"most {max_pixels} pixels. Scale it down, or set max_pixels."
        )


class _QuietLibraries:
    """Silences Pillow, nibabel and pydicom while any thread reads.

    Pillow's warning about large pictures is replaced by `max_pixels`, and unusual metadata does
    not matter here. pydicom logs unusual values, which may include a patient's name.
    `warnings.catch_warnings` acts on the whole process: two threads with overlapping blocks would
    leave the filter behind. Therefore the first reader sets the filter, and the last one restores
    it.
    """

    _MODULES = r"PIL|pydicom|nibabel|regard\.media"
    _OFF = logging.CRITICAL + 1

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved = warnings.catch_warnings()
        # The loggers below pydicom's take its level; nibabel's has a handler of its own.
        self._loggers = [logging.getLogger(name) for name in ("pydicom", "nibabel.global")]
        self._levels: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=self._MODULES)
                self._levels = [logger.level for logger in self._loggers]
                for logger in self._loggers:
                    logger.setLevel(self._OFF)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._saved.__exit__(None, None, None)
                for logger, level in zip(self._loggers, self._levels, strict=True):
                    logger.setLevel(level)


quiet_libraries = _QuietLibraries()
"""Context in which Pillow, nibabel and pydicom neither warn nor log; any thread may enter it."""


@cache
def silence_libtiff() -> None:
    """Stop Pillow's copy of libtiff from writing to standard error.

    It writes from C, where no filter of Python's reaches it; Pillow raises its own errors. On a
    system that does not list a process's libraries nothing changes.
    """
    import ctypes

    with suppress(OSError, AttributeError, UnicodeDecodeError):
        mapped = Path("/proc/self/maps").read_text("utf-8").splitlines()
        paths = {line.split(maxsplit=5)[-1] for line in mapped if "libtiff" in line}
        for library in map(ctypes.CDLL, sorted(paths)):
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
