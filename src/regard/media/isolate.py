"""A worker process that decodes media files, so that a crash affects only one file.

`python -m regard.media.isolate BYTES` reads tasks from standard input and writes results to
standard output, one after the other, until its input ends. BYTES limits its address space; 0 is no
limit. Decoders are large, written in C, and read untrusted bytes: here a crash, a hang or a lack
of memory fails one task only. Results are JSON and plain numbers, never a pickle, so a decoder
that an attacker has taken over cannot run code in the process that reads them.

A task and a result are messages: the length of a header (4 bytes, little-endian), the header
(JSON), and as many bytes as its `size` says.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict, fields
from typing import Any, BinaryIO

import numpy as np

from regard import errors
from regard.config.io import from_dict
from regard.errors import MediaError, MediaTooLarge, MissingExtra
from regard.media.image import read_image
from regard.media.preprocess import SPECS, ClipSpec, ScanSpec, Spec
from regard.types import Clip, Media, Scan

MAX_HEADER = 2**20
_KINDS: dict[str, type[Media]] = {one.__name__: one for one in (Media, Clip, Scan)}
_RAISED = ("MediaError", "MediaTooLarge", "UnknownMedia")
_LENGTH = 4


class MissingReader(MediaError):
    """The worker process lacks the package that reads files of this kind."""


def task(
    name: str, size: int, spec: Spec, limits: dict[str, int], seconds: float
) -> dict[str, Any]:
    """Return the header of a task.

    Args:
        name: the file's name in messages and results.
        size: size of the file in bytes.
        spec: the encoder's; its type determines the medium.
        limits: "max_pixels", "max_frames" and "max_voxels"; larger files are refused before they
            are decoded.
        seconds: timeout after which the process ends itself, if the system supports it.
    """
    kind = [spec.medium, asdict(spec)]
    return {"name": name, "size": size, "spec": kind, "limits": limits, "seconds": seconds}


def write_message(stream: BinaryIO, header: dict[str, Any], content: Any) -> None:
    """Write a header and the bytes that belong to it.

    Raises:
        OSError: the other process no longer reads.
    """
    head = json.dumps(header, default=lambda number: number.item()).encode()
    stream.write(len(head).to_bytes(_LENGTH, "little") + head)
    stream.write(content)
    stream.flush()


def read_header(stream: BinaryIO) -> dict[str, Any] | None:
    """Read a message's header; None if the stream ends before it does.

    Raises:
        ValueError: it is not a header.
    """
    length = int.from_bytes(stream.read(_LENGTH), "little")
    if length > MAX_HEADER:
        raise ValueError("the header is too long")
    head = stream.read(length) if length else b""
    return json.loads(head) if head and len(head) == length else None


def describe(media: Media) -> tuple[dict[str, Any], memoryview]:
    """Return the header of a result, and its pixels."""
    pixels = np.ascontiguousarray(media.pixels)
    values = {f.name: getattr(media, f.name) for f in fields(media) if f.name != "pixels"}
    header = {
        "kind": type(media).__name__,
        "values": {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()},
        "dtype": pixels.dtype.name,
        "shape": pixels.shape,
        "size": pixels.nbytes,
    }
    return header, pixels.reshape(-1).view(np.uint8).data


def read_result(stream: BinaryIO, most: int) -> Media | None:
    """Read the result of a task; None if the process ended before.

    Args:
        stream: stream of its results.
        most: bytes of pixels.

    Raises:
        MediaError: the file could not be read; the message says why.
        ValueError: it is not a result.
    """
    header = read_header(stream)
    if header is None:
        return None
    if "error" in header:
        name = str(header["error"])
        kind = getattr(errors, name) if name in _RAISED else MissingReader
        raise kind(str(header["message"]))
    dtype, shape = np.dtype(str(header["dtype"])), [int(n) for n in header["shape"]]
    if dtype.kind not in "uf" or min(shape, default=0) < 1 or len(shape) > 4:
        raise ValueError("the result has no pixels")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > most:
        raise ValueError("the result is larger than the limit")
    pixels = np.empty(shape, dtype)
    if stream.readinto(pixels.reshape(-1).view(np.uint8).data) != pixels.nbytes:  # type: ignore[attr-defined]
        return None
    return _media(str(header["kind"]), header["values"], pixels)


def _media(kind: str, values: dict[str, Any], pixels: np.ndarray) -> Media:
    made: dict[str, Any] = {}
    for field in fields(_KINDS[kind]):
        if field.name in values:
            value = values[field.name]
            is_matrix = field.name.endswith("affine")
            made[field.name] = np.array(value, np.float64) if is_matrix else _tuples(value)
    return _KINDS[kind](pixels=pixels, **made)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def read(header: dict[str, Any], content: bytes) -> Media:
    """Read the file of one task.

    Raises:
        MediaError: see `read_image`, `read_clip` and `read_scan`.
        MissingExtra: see there.
    """
    medium, values = header["spec"]
    spec, name, limits = from_dict(SPECS[medium], values), header["name"], header["limits"]
    if isinstance(spec, ScanSpec):
        from regard.media.scan.scan_reader import read_scan

        return read_scan(content, spec, name=name, max_voxels=limits["max_voxels"])
    max_pixels = limits["max_pixels"]
    if isinstance(spec, ClipSpec):
        from regard.media.video.video_reader import read_clip

        max_frames = limits["max_frames"]
        return read_clip(content, spec, name=name, max_pixels=max_pixels, max_frames=max_frames)
    return read_image(content, name=name, max_pixels=max_pixels)


def serve(tasks: BinaryIO, results: BinaryIO) -> None:
    """Read tasks and write their results until the tasks end."""
    while (header := read_header(tasks)) is not None:
        content = tasks.read(header["size"])
        if len(content) < header["size"]:
            return
        with _alarm(header["seconds"]):
            answer, pixels = _answer(header, content)
            del content
            write_message(results, answer, pixels)


def _answer(header: dict[str, Any], content: bytes) -> tuple[dict[str, Any], Any]:
    try:
        return describe(read(header, content))
    except (MediaError, MissingExtra) as error:
        name, message = type(error).__name__, str(error)
    except MemoryError:
        name = MediaTooLarge.__name__
        message = f"{header['name']} needs more memory than decoding may take. Scale it down."
    return {"error": name, "message": message, "size": 0}, b""


@contextlib.contextmanager
def _alarm(seconds: float) -> Generator[None]:
    """End this process if a task takes longer, since its owner may have died."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_resources(memory: int) -> None:
    """Limit this process's address space; a file that needs more raises an error or ends it."""
    try:
        import resource
    except ImportError:  # this system has no such limits
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    if memory:
        limits[resource.RLIMIT_AS] = memory
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def main(arguments: Sequence[str]) -> None:
    """Take tasks from standard input, and discard whatever libraries print."""
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with its input, after the last task
        signal.signal(number, signal.SIG_IGN)
    _limit_resources(int(arguments[0]))
    results = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    with results, contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, results)


if __name__ == "__main__":
    main(sys.argv[1:])
