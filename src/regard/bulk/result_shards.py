"""Shards: the rows of a unit in one file, which is written completely or not at all.

A row is the caption's JSON (`Caption.to_json`) without the keys that differ from run to run
(`seconds`) or were not requested (`n_best`; without traces maps, grid, gates and alternatives). It
has these keys in addition:

    unit, index    number of the unit and of the item in it, which identify the item
    digest         SHA-256 of the file's bytes
    model_digest   SHA-256 of the model's files
    error          why an item failed; such a row has no caption
"""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regard.bulk.filesystem import Place
from regard.errors import needs_extra
from regard.types import Caption
from regard.util.shown_text import without_secrets

Row = dict[str, Any]

_GROUP_ROWS = 1024  # rows of a Parquet row group, held in memory until it is written
_COUNTS = b"regard.rows", b"regard.failed"


def caption_row(caption: Caption, *, traces: bool) -> Row:
    """Return the row of a caption."""
    row: Row = {"file": readable(without_secrets(caption.file))}
    made = caption.to_json(alpha=traces)
    for key in ("seconds", "n_best") if traces else ("seconds", "n_best", "grid"):
        del made[key]
    if not traces:
        made["words"] = [{k: w[k] for k in ("text", "logprob")} for w in made["words"]]
    digest = caption.media.digest if caption.media is not None else None
    return made | row | {"digest": digest}


def failed_row(file: str, error: str) -> Row:
    """Return the row of an item that failed."""
    file, error = map(readable, map(without_secrets, (file, error)))
    return {"file": file, "error": " ".join(error.split())}


def readable(text: str) -> str:
    """Return a text with bytes that are not UTF-8, as in some file names, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


class Shard(ABC):
    """Writes the rows of a unit."""

    def __init__(self) -> None:
        """Start with no rows."""
        self.rows = 0
        self.failed = 0

    def add(self, row: Row) -> None:
        """Write a row."""
        self.rows += 1
        self.failed += "error" in row
        self._write(row)

    @abstractmethod
    def _write(self, row: Row) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Write the remaining rows."""


class _Lines(Shard):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def _write(self, row: Row) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet(Shard):
    def __init__(self, path: Path, traces: bool) -> None:
        super().__init__()
        import pyarrow
        from pyarrow import parquet

        self._table = pyarrow.Table
        self._schema = schema(traces=traces)
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[Row] = []

    def _write(self, row: Row) -> None:
        self._held.append(row)
        if len(self._held) == _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._table.from_pylist(self._held, schema=self._schema))
        self._held = []

    def close(self) -> None:
        try:
            if self._held or not self.rows:
                self._flush()
            counts = zip(_COUNTS, (self.rows, self.failed), strict=True)
            self._writer.add_key_value_metadata({k: str(v).encode() for k, v in counts})
        finally:
            self._writer.close()


@contextmanager
def new_shard(place: Place, path: str, form: str, *, traces: bool) -> Generator[Shard]:
    """Yield a shard to fill; it is moved to its path if the block ends without an exception.

    Args:
        place: file system of the shard.
        path: path of the shard.
        form: "parquet" or "jsonl".
        traces: whether its rows have traces.

    Raises:
        MissingExtra: Parquet needs pyarrow.
    """
    check_form(form)
    with place.whole(path) as scratch:
        shard = _Parquet(scratch, traces) if form == "parquet" else _Lines(scratch)
        try:
            yield shard
        finally:
            shard.close()


def check_form(form: str) -> None:
    """Check that a format can be written here.

    Raises:
        MissingExtra: Parquet needs pyarrow.
    """
    if form == "parquet":
        hint = "Or write JSON lines: --format jsonl."
        with needs_extra("pyarrow", "bulk", "writing Parquet", hint):
            importlib.import_module("pyarrow.parquet")


def counts_of(place: Place, path: str, form: str) -> tuple[int, int]:
    """Return the number of rows of a shard, and how many of its items failed."""
    with place.open(path) as file:
        if form == "parquet":
            from pyarrow import parquet

            found = parquet.read_metadata(file).metadata
            return int(found[_COUNTS[0]]), int(found[_COUNTS[1]])
        rows = failed = 0
        for line in file:
            rows += 1
            failed += b'"error": ' in line and "error" in json.loads(line)
        return rows, failed


def schema(*, traces: bool) -> Any:
    """Return the `pyarrow.Schema` of Parquet shards."""
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int32()
    numbers, pairs = pa.list_(number), pa.list_(pa.list_(number))
    said = {"text": text, "logprob": number}
    word: dict[str, Any] = dict(said)
    if traces:
        word |= {"beta": number, "entropy": number, "peak": number, "location": whole,
                 "confidence": number, "source": text, "copy": number,
                 "cell": pa.list_(whole)}  # fmt: skip
        word["alternatives"] = pa.list_(pa.struct(said))
    fields: dict[str, Any] = {
        "unit": whole, "index": whole, "file": text, "error": text, "digest": text,
        "model": text, "model_digest": text, "schema_version": whole, "medium": text,
        "caption": text, "score": number, "confidence": number, "finished": pa.bool_(),
        "words": pa.list_(pa.struct(word)), "notices": pa.list_(text),
    }  # fmt: skip
    if traces:
        grid: dict[str, Any] = {"axes": pa.list_(text)}
        grid |= dict.fromkeys(("shape", "source_size"), pa.list_(whole))
        grid |= {"spans": pairs, "shown": numbers, "extent": pairs, "affine": pairs}
        fields["grid"] = pa.struct(grid)
        fields["alpha"] = pa.list_(pa.list_(pa.float32()))
    return pa.schema(list(fields.items()))
