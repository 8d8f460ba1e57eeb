"""WebDataset shards: tars of `key.jpg` and `key.json`, on any path that fsspec opens.

A data set of shards is named by its manifest `shards.json`, which `regard data shard` writes, or
by a pattern of tars (`photos-{000..031}.tar`, `photos-*.tar`), which are then scanned once for the
same list. Pictures stay in the tars: one is read from its place when it is needed, which is once
if the annotations of a frozen encoder are stored.

The file of such a picture is written `TAR#OFFSET+SIZE!NAME`.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from regard.data.caption_records import missing_files
from regard.data.dataset import (
    SPLITS,
    CaptionDataset,
    CaptionedItem,
    LineFault,
    Row,
    split_named,
    texts_in,
    with_rest_trained,
)
from regard.data.formats import CaptionFile, load_dataset, notes_on
from regard.data.tar_samples import Sample, scan_samples
from regard.errors import ConfigError, DatasetError, MediaError, needs_extra
from regard.media import is_there
from regard.types import Media
from regard.util.folder_lock import locked, locked_remotely
from regard.util.safe_io import json_of
from regard.util.shown_text import without_secrets

MANIFEST = "shards.json"
FORMAT_VERSION = 1
_PLACE = re.compile(r"(?P<tar>.+)#(?P<offset>\d+)\+(?P<size>\d+)!(?P<name>[^!/]+)")
_OVERHEAD = 3 * 512  # bytes of a tar for each sample: two headers and padding


# Reading


def load_captions(
    annotations: str, images: str = "", *, present_only: bool = False
) -> CaptionDataset:
    """Read captions from a file (`load_dataset`) or from shards.

    Raises:
        DatasetError: they cannot be read.
        MissingExtra: shards need fsspec, a pattern of them webdataset.
    """
    if names_shards(annotations):
        return load_shards(annotations)
    return load_dataset(annotations, images, present_only=present_only)


def names_shards(source: str) -> bool:
    """Return whether a source of captions names shards: a manifest, its folder, a URL, or tars."""
    path = source.removesuffix("/")
    if "://" in path or path.lower().endswith((".tar", f"/{MANIFEST}")) or path == MANIFEST:
        return True
    return (Path(path) / MANIFEST).is_file()


def load_shards(source: str) -> CaptionDataset:
    """List the pictures of shards with their captions; bad entries are left out, see its notes.

    Args:
        source: the manifest, its folder, or a pattern of tars with `{000..031}` or `*`.

    Raises:
        DatasetError: it cannot be read, is damaged, names a picture twice, or no entry can be used.
        MissingExtra: fsspec or webdataset is not installed.
    """
    found = read_shards(source)
    seen: set[str] = set()
    for item in found.pictures:
        if item.key in seen:
            raise DatasetError(f"{source} holds two pictures of the name {item.key}.")
        seen.add(item.key)
    if found.faults and not len(found.dataset):
        raise DatasetError(f"{source}, {found.faults[0]}. `regard data check` lists all faults.")
    return found.dataset


def read_shards(source: str) -> CaptionFile:
    """List the pictures of shards with their captions and the faults of their entries.

    See `load_shards`.
    """
    found: list[tuple[str, Sample]] = []
    faults: list[LineFault] = []
    if source.lower().endswith(".tar"):
        for url in _expanded(source):
            with _opened(url) as file:
                found += [(url, sample) for sample in scan_samples(file, url, faults)]
    else:
        path = source.removesuffix("/")
        path = path if path.endswith(MANIFEST) else f"{path}/{MANIFEST}"
        found = _listed(path)
    items = with_rest_trained(_item(url, sample) for url, sample in found)
    rows = tuple(Row(i.key, text, i.split) for i in items for text in i.captions or ("",))
    captioned = tuple(item for item in items if item.captions)
    dataset = CaptionDataset(captioned, source, (), notes_on(items, (), faults))
    ids = tuple(("picture", item.key, item.key) for item in items)
    return CaptionFile(rows, tuple(faults), ids, (), items, dataset)


def _item(url: str, sample: Sample) -> CaptionedItem:
    place = f"{url}#{sample.offset}+{sample.size}!{sample.name}"
    split = split_named(sample.split)
    return CaptionedItem(place, sample.captions, split, sample.file, sample.sha256)


def place_in_shard(file: str) -> re.Match[str] | None:
    """Return tar, offset, size and name of a file in a shard; None of a path."""
    return _PLACE.fullmatch(file)


def read_item(item: CaptionedItem, read: Callable[[str], Media]) -> Media:
    """Read a picture, clip or scan from a folder or a shard.

    Args:
        item: its file is a path or a place in a shard.
        read: reads a path.

    Raises:
        DatasetError: the shard cannot be read, or its bytes are not those of its list.
        MediaError: of `read`.
    """
    place = place_in_shard(item.file)
    if place is None:
        return read(item.file)
    offset, size = int(place["offset"]), int(place["size"])
    with _of_filesystem(place["tar"]) as (files, path):
        content = files.cat_file(path, start=offset, end=offset + size)
    if len(content) > size:  # a server may ignore the range and send everything
        content = content[offset : offset + size]
    if hashlib.sha256(content).hexdigest() != item.digest:
        raise DatasetError(
            f"the bytes of {item.key} in {place['tar']} differ from its list: it was changed, "
            "or is incomplete. Write or copy the shards again. If the server cannot send parts of "
            f"files, use simplecache::{place['tar']}."
        )
    # Readers of clips and scans take files.
    with tempfile.TemporaryDirectory(prefix="regard-") as folder:
        file = Path(folder, place["name"])
        file.write_bytes(content)
        try:
            return replace(read(str(file)), name=item.key)
        except MediaError as error:
            error.args = (str(error).replace(str(file), f"{place['tar']}!{place['name']}"),)
            raise


def _listed(path: str) -> list[tuple[str, Sample]]:
    """Return the samples of a manifest, each with its tar."""
    with _opened(path) as file:
        content = file.read()
    try:
        values = json_of(content.decode("utf-8"))
        if values["format_version"] != FORMAT_VERSION:
            raise DatasetError(
                f"{path} has the format {values['format_version']}; this version of regard reads "
                f"{FORMAT_VERSION}."
            )
        return [
            (path.removesuffix(MANIFEST) + shard["name"], Sample(**sample | _checked(sample)))
            for shard in values["shards"]
            for sample in shard["samples"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(f"{path} is not a list of shards, or is damaged: {reason}.") from error


def _checked(sample: dict[str, Any]) -> dict[str, Any]:
    captions = texts_in(sample["captions"], f"the captions of {sample['file']}")
    return {"captions": tuple(captions), "split": str(sample["split"] or "")}


def _expanded(pattern: str) -> list[str]:
    """Return the tars that a pattern names, in order."""
    urls = [pattern]
    if "{" in pattern:
        with needs_extra("webdataset", "devices", "a pattern of shards"):
            from braceexpand import braceexpand
        urls = list(braceexpand(pattern))
    found: list[str] = []
    for url in urls:
        if "*" not in url:
            found.append(url)
            continue
        with _of_filesystem(url) as (files, path):
            found += sorted(str(files.unstrip_protocol(name)) for name in files.glob(path))
    if not found:
        raise DatasetError(f"{pattern} does not match any shard.")
    return found


@contextmanager
def _opened(url: str) -> Generator[IO[bytes]]:
    with _of_filesystem(url) as (files, path), files.open(path, "rb") as file:
        yield file


@contextmanager
def _of_filesystem(url: str) -> Generator[tuple[Any, str]]:
    """Yield fsspec's file system of a URL and the path in it.

    Raises:
        DatasetError: anything in the block fails.
        MissingExtra: fsspec is not installed.
    """
    with needs_extra("fsspec", "devices", "reading shards"):
        from fsspec.core import url_to_fs
    try:
        yield url_to_fs(url)
    except DatasetError:
        raise
    except Exception as error:  # every file system has its own
        reason = without_secrets(str(error), [url])
        raise DatasetError(f"{url} cannot be read: {type(error).__name__}: {reason}.") from error


# Writing


def write_shards(
    dataset: CaptionDataset,
    out: str,
    *,
    size: int = 2**28,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write tars of at most `size` bytes (or one picture), each of one split.

    A tar gets its name when it is complete, and the manifest is written last: an interrupted
    call leaves no data set, and the same call starts again.

    Args:
        dataset: pictures, clips or scans in one file each.
        out: a folder, or the URL of one that fsspec can write to.
        size: largest tar in bytes.
        report: is called with (pictures written, pictures in all).

    Returns:
        The manifest's path, which training takes instead of a caption file.

    Raises:
        ConfigError: the folder holds shards already, or another process fills it.
        DatasetError: a file is missing, is a folder, or is in two splits.
        MissingExtra: webdataset is not installed.
    """
    with needs_extra("fsspec", "devices", "writing shards"):
        from fsspec.core import url_to_fs
    _check_files(dataset)
    files, folder = url_to_fs(out)
    folder = folder.removesuffix("/")
    manifest = f"{out.removesuffix('/')}/{MANIFEST}"
    with _locked(files, folder, out) as check:
        if files.exists(f"{folder}/{MANIFEST}"):
            raise ConfigError(
                f"{manifest} exists already. Name another folder, or delete this one."
            )
        _write_all(dataset, files, folder, size, lambda done: (check(), report(done, len(dataset))))
    return manifest


@contextmanager
def _locked(files: Any, folder: str, out: str) -> Generator[Callable[[], None]]:
    """Hold the lock of a folder for shards; yield what raises if the lock is lost."""
    command = "regard data shard"
    if "file" in files.protocol:
        with locked(Path(folder), command):
            yield lambda: None
        return
    files.makedirs(folder, exist_ok=True)
    with locked_remotely(_LockFolder(files, folder), without_secrets(out), command) as check:
        yield check


class _LockFolder:
    """The files of a folder of fsspec, for its lock."""

    def __init__(self, files: Any, folder: str) -> None:
        self._files, self._folder = files, folder

    def names(self) -> list[str]:
        self._files.invalidate_cache()
        found = (
            self._files.ls(self._folder, detail=False) if self._files.exists(self._folder) else ()
        )
        return [name.rpartition("/")[2] for name in found]

    def read(self, name: str) -> bytes:
        return self._files.cat_file(f"{self._folder}/{name}")

    def write(self, name: str, content: bytes) -> None:
        self._files.pipe_file(f"{self._folder}/{name}", content)

    def delete(self, name: str) -> None:
        if self._files.exists(path := f"{self._folder}/{name}"):
            self._files.rm_file(path)


def _write_all(
    dataset: CaptionDataset, files: Any, folder: str, size: int, report: Callable[[int], Any]
) -> None:
    files.makedirs(folder, exist_ok=True)
    shards: list[dict[str, Any]] = []
    done = 0
    with tempfile.TemporaryDirectory(prefix="regard-") as place:
        for name, items in _plan_shards(dataset, size):
            tar = Path(place, name)
            _write_tar(tar, items, done)
            with tar.open("rb") as file:
                samples = [asdict(sample) for sample in scan_samples(file, name, [])]
            _publish(files, tar, f"{folder}/{name}")
            shards.append({"name": name, "size": tar.stat().st_size, "samples": samples})
            tar.unlink()
            done += len(items)
            report(done)
        listing = Path(place, MANIFEST)
        values = {"format_version": FORMAT_VERSION, "shards": shards}
        listing.write_text(json.dumps(values, ensure_ascii=False) + "\n", "utf-8")
        _publish(files, listing, f"{folder}/{MANIFEST}")


def _check_files(dataset: CaptionDataset) -> None:
    dataset.check_one_split_each()
    missing = [item.file for item in dataset if not is_there(item.file)]
    if missing:
        raise DatasetError(missing_files(dataset.source, missing, len(dataset)))
    folders = [item.file for item in dataset if not os.path.isfile(item.file)]
    if folders:
        raise DatasetError(
            f"{folders[0]} is a folder of slices; a shard holds one file for each scan. Save it as "
            "NIfTI first."
        )


def _plan_shards(dataset: CaptionDataset, size: int) -> Iterator[tuple[str, list[CaptionedItem]]]:
    """Yield each tar's name and items, in the order of the data set."""
    names = {item.split for item in dataset}
    for split in (*(s for s in SPLITS if s in names), *sorted(names - {*SPLITS})):
        shard: list[CaptionedItem] = []
        number, filled = 0, 0
        for item in dataset.split(split):
            more = os.path.getsize(item.file) + _OVERHEAD
            if shard and filled + more > size:
                yield f"{split or 'all'}-{number:06d}.tar", shard
                shard, filled, number = [], 0, number + 1
            shard.append(item)
            filled += more
        yield f"{split or 'all'}-{number:06d}.tar", shard


def _write_tar(path: Path, items: list[CaptionedItem], first: int) -> None:
    with needs_extra("webdataset", "devices", "writing shards"):
        from webdataset.writer import TarWriter
    with TarWriter(str(path), mtime=0, encoder=False) as tar:
        for number, item in enumerate(items, start=first):
            about = {"file": item.key, "captions": item.captions, "split": item.split}
            parts = {"json": json.dumps(about, ensure_ascii=False).encode()}
            media = {_suffix(item.file): Path(item.file).read_bytes()}
            tar.write({"__key__": f"{number:09d}"} | media | parts)


def _suffix(file: str) -> str:
    """Return a file's suffix without its dot: "jpg", "nii.gz"."""
    name = os.path.basename(file).lower()
    packed = ".gz" if name.endswith(".gz") else ""
    return (os.path.splitext(name.removesuffix(".gz"))[1] + packed).removeprefix(".")


def _publish(files: Any, source: Path, target: str) -> None:
    """Copy a file to its place in one step. File systems other than the local one do so anyway."""
    if "file" not in files.protocol:
        files.put_file(str(source), target)
        return
    temporary = Path(f"{target}.{os.getpid()}.tmp")
    shutil.copyfile(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
