"""Digests of arrays, captions, weights and files, for records that are compared bit by bit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

_TIMES = re.compile(r'("(?:seconds|captions_per_second)": ?)[-+.0-9e]+')
_TEXTS = (".html", ".json", ".jsonl", ".csv", ".md", ".txt", ".toml")
_LENGTH = 16  # hexadecimal digits: 64 bits tell what differs from what does not


def of_bytes(*parts: bytes) -> str:
    """Return a digest of some bytes."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest()[:_LENGTH]


def of_array(array: Any) -> str | None:
    """Return a digest of an array's type, shape and exact bytes; None for None."""
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    return of_bytes(f"{array.dtype} {array.shape}".encode(), array.tobytes())


def of_arrays(named: dict[str, Any]) -> str:
    """Return a digest of arrays and of their names."""
    return of_bytes(*(f"{name} {of_array(named[name])}".encode() for name in sorted(named)))


def of_value(value: Any) -> str:
    """Return a digest of what JSON can hold; floats count to the last bit."""
    return of_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def timeless(text: str, *folders: Path) -> str:
    """Return a text without the seconds that it took and the folders that it was made in."""
    for folder in folders:
        text = text.replace(str(folder), "<folder>")
    return _TIMES.sub(r"\1null", text)


def of_file(path: Path, *folders: Path) -> str:
    """Return a digest of a file; of a text without times and the named folders."""
    if path.suffix not in _TEXTS:
        return of_bytes(path.read_bytes())
    text = path.read_text("utf-8", errors="surrogateescape")
    return of_bytes(timeless(text, *folders).encode("utf-8", "surrogateescape"))


def of_folder(folder: Path, *folders: Path, without: Iterable[str] = ()) -> dict[str, str]:
    """Return the digest of every file below a folder by its path, but for some endings."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): of_file(path, folder, *folders)
        for path in files
        if not path.name.endswith(tuple(without))
    }


def of_caption(caption: Any) -> dict[str, Any]:
    """Return what a caption says, and digests of all that is known of it but its seconds."""
    trace = caption.trace
    record = {key: value for key, value in caption.to_json().items() if key != "seconds"}
    words = [[w.text, w.token, w.logprob, w.confidence, w.alternatives] for w in caption.words]
    return {
        "text": caption.text,
        "score": caption.score,
        "alpha": of_array(trace.alpha),
        "beta": of_array(trace.beta),
        "location": None if trace.location is None else [int(cell) for cell in trace.location],
        "words": of_value(words),
        "context": f"{trace.attention} {trace.context}",
        "n_best": [one.text for one in caption.n_best],
        "json": of_value(record),
    }
