"""Small bulk jobs: pictures, the quickest captions of the shipped model, rows read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet
from webdataset import TarWriter

from regard.bulk import FinishedUnit, Job, open_run, run
from regard.bulk.plan import FORMATS
from tests.helpers import toys

QUICK = {"beam": 1, "max_length": 3}


def job(source: object, out: object, **settings: Any) -> Job:
    """A job of few, short captions in units of 4."""
    given = {"form": "jsonl", "unit": 4, "batch_size": 2, "options": QUICK} | settings
    return Job(str(source), str(out), **given)


def do(made: Job, *, units: int | None = None, **options: Any) -> list[FinishedUnit]:
    """Run a job, or only so many of its units."""
    found: list[FinishedUnit] = []
    retry = options.pop("retry_failed", False)
    for done in run(open_run(made, retry_failed=retry), **({"engine": "local"} | options)):
        found.append(done)
        if len(found) == units:
            break
    return found


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of a folder in the order of units."""
    found: list[dict[str, Any]] = []
    for path in sorted(out.glob("part-*")):
        form = path.suffix[1:]
        assert form in FORMATS
        found += _rows_of(path)
    return found


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a shard; keys without a value, which all rows of Parquet have, are left out."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    found = parquet.read_table(path).to_pylist()
    return [{k: v for k, v in row.items() if v is not None} for row in found]


def shards(out: Path) -> dict[str, bytes]:
    """The shards' bytes by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}


def pictures(folder: Path, count: int = 10, *, bad: tuple[int, ...] = ()) -> Path:
    """Write pictures named by their numbers; those that are `bad` are none."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        content = b"no picture" if i in bad else toys.jpeg(i, (16, 24))
        (folder / f"{i:03d}.jpg").write_bytes(content)
    return folder


def plan_of(out: Path) -> dict[str, Any]:
    """The content of a folder's plan."""
    return json.loads((out / "_plan.json").read_text("utf-8"))


def write_parquet(path: Path, columns: dict[str, list[object]], rows: int = 4) -> Path:
    """Write columns, so many rows a group."""
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


def write_tar(path: Path, samples: int = 8) -> Path:
    """A WebDataset shard; the fifth sample has no picture, the third has two."""
    with TarWriter(str(path)) as tar:
        for i in range(samples):
            sample: dict[str, object] = {"__key__": f"{i:04d}", "txt": "a dog", "json": {"n": i}}
            if i != 4:
                sample["jpg"] = toys.jpeg(i, (16, 24))
            if i == 2:
                sample["right.png"] = toys.jpeg(i, (24, 16))
            tar.write(sample)
    return path
