"""Write a data set as WebDataset shards; `regard.data.shards` reads them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regard.data.dataset import SPLITS, CaptionDataset, CaptionedItem
from regard.data.shards import FORMAT_VERSION, MANIFEST, scan
from regard.errors import ConfigError, DatasetError, MissingExtra
from regard.media import is_there

_BLOCK = 3 * 512  # of a tar: two headers and padding beside each sample's bytes


def write_shards(
    dataset: CaptionDataset,
    out: str,
    *,
    size: int = 2**28,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write tars of at most `size` bytes (or one picture), each of one split.

    A tar appears under its name when it is whole, the manifest after all of them; a kill leaves
    no data set, and the same command begins again.

    Args:
        dataset: pictures, clips or scans in one file each.
        out: a folder, or the URL of one that fsspec writes to.
        size: of a tar.
        report: is told (pictures written, of how many).

    Returns:
        The manifest's path, which training takes in place of a caption file.

    Raises:
        ConfigError: shards are there already.
        DatasetError: a file is missing, is a folder, or stands in two splits.
        MissingExtra: webdataset is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtra("fsspec", "devices", "writing shards") from error
    _check(dataset)
    files, folder = url_to_fs(out)
    manifest = f"{out.removesuffix('/')}/{MANIFEST}"
    if files.exists(f"{folder.removesuffix('/')}/{MANIFEST}"):
        raise ConfigError(f"{manifest} is there already. Name another folder, or delete this one.")
    files.makedirs(folder, exist_ok=True)
    shards: list[dict[str, Any]] = []
    done = 0
    for name, items in _planned(dataset, size):
        with tempfile.TemporaryDirectory(prefix="regard-") as place:
            tar = Path(place, name)
            _write_tar(tar, items, done)
            with tar.open("rb") as file:
                samples = [asdict(sample) for sample in scan(file, name)]
            _publish(files, tar, f"{folder.removesuffix('/')}/{name}")
            shards.append({"name": name, "size": tar.stat().st_size, "samples": samples})
        done += len(items)
        report(done, len(dataset))
    with tempfile.TemporaryDirectory(prefix="regard-") as place:
        listing = Path(place, MANIFEST)
        values = {"format_version": FORMAT_VERSION, "shards": shards}
        listing.write_text(json.dumps(values, ensure_ascii=False) + "\n", "utf-8")
        _publish(files, listing, f"{folder.removesuffix('/')}/{MANIFEST}")
    return manifest


def _check(dataset: CaptionDataset) -> None:
    dataset.check_one_split_each()
    missing = [item.file for item in dataset if not is_there(item.file)]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(dataset)} files are missing, the first: {missing[0]}. "
            "`regard data check` lists them all."
        )
    folders = [item.file for item in dataset if not os.path.isfile(item.file)]
    if folders:
        raise DatasetError(
            f"{folders[0]} is a folder of slices; a shard holds one file for each scan. Save it as "
            "NIfTI first."
        )


def _planned(dataset: CaptionDataset, size: int) -> Iterator[tuple[str, list[CaptionedItem]]]:
    """Yield each tar's name and items, in the order of the data set."""
    names = {item.split for item in dataset}
    for split in (*(s for s in SPLITS if s in names), *sorted(names - {*SPLITS})):
        shard: list[CaptionedItem] = []
        number, filled = 0, 0
        for item in dataset.split(split):
            more = os.path.getsize(item.file) + _BLOCK
            if shard and filled + more > size:
                yield f"{split or 'all'}-{number:06d}.tar", shard
                shard, filled, number = [], 0, number + 1
            shard.append(item)
            filled += more
        yield f"{split or 'all'}-{number:06d}.tar", shard


def _write_tar(path: Path, items: list[CaptionedItem], first: int) -> None:
    try:
        from webdataset.writer import TarWriter
    except ImportError as error:
        raise MissingExtra("webdataset", "devices", "writing shards") from error
    with TarWriter(str(path), mtime=0, encoder=False) as tar:
        for number, item in enumerate(items, start=first):
            about = {"file": item.key, "captions": item.captions, "split": item.split}
            tar.write(
                {
                    "__key__": f"{number:09d}",
                    _suffix(item.file): Path(item.file).read_bytes(),
                    "json": json.dumps(about, ensure_ascii=False).encode(),
                }
            )


def _suffix(file: str) -> str:
    """Return a file's suffix without its dot: "jpg", "nii.gz"."""
    name = os.path.basename(file).lower()
    packed = ".gz" if name.endswith(".gz") else ""
    return (os.path.splitext(name.removesuffix(".gz"))[1] + packed).removeprefix(".")


def _publish(files: Any, source: Path, target: str) -> None:
    """Put a file in its place, whole: other file systems than the local one do so themselves."""
    if "file" not in files.protocol:
        files.put_file(str(source), target)
        return
    temporary = Path(f"{target}.{os.getpid()}.tmp")
    shutil.copyfile(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
