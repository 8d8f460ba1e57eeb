"""WebDataset shards: tars of `key.jpg` and `key.json`, on any path that fsspec opens.

A data set of shards is named by its manifest `shards.json`, which `regard data shard` writes, or
by a pattern of tars (`photos-{000..031}.tar`, `photos-*.tar`), which are then read through once to
make the same list. Pictures stay where they are: one is read by its place in its tar when it is
wanted, which is once where a frozen encoder's annotations are stored.

Such a picture's file is written `TAR#OFFSET+SIZE!NAME`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from regard.data.dataset import CaptionDataset, CaptionedItem, split_named, with_rest_trained
from regard.data.formats import load_dataset
from regard.data.rows import texts_in
from regard.errors import DatasetError, MissingExtra
from regard.media.source_file import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VOLUME_SUFFIXES
from regard.types import Media

MANIFEST = "shards.json"
FORMAT_VERSION = 1
_PLACE = re.compile(r"(?P<tar>.+)#(?P<offset>\d+)\+(?P<size>\d+)!(?P<name>[^!/]+)")
_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES | VOLUME_SUFFIXES


@dataclass(frozen=True)
class Sample:
    """One picture of a shard.

    Attributes:
        name: in the tar: the key and the suffix.
        offset: of its bytes in the tar.
        size: of them.
        sha256: of them.
        file: what the data set calls it.
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
    """Whether captions are named that lie in shards: a manifest, its folder, a URL, or tars."""
    path = source.removesuffix("/")
    if "://" in path or path.endswith((".tar", f"/{MANIFEST}")) or path == MANIFEST:
        return True
    return (Path(path) / MANIFEST).is_file()


def load_shards(source: str) -> CaptionDataset:
    """Read which pictures shards hold, and their captions.

    Args:
        source: the manifest, its folder, or a pattern of tars with `{000..031}` or `*`.

    Raises:
        DatasetError: it cannot be read, is damaged, or names a picture twice.
        MissingExtra: fsspec or webdataset is not installed.
    """
    found: list[tuple[str, Sample]] = []
    if source.endswith(".tar"):
        for url in _expanded(source):
            with opened(url) as file:
                found += [(url, sample) for sample in scan(file, url)]
    else:
        path = source.removesuffix("/")
        path = path if path.endswith(MANIFEST) else f"{path}/{MANIFEST}"
        found = _listed(path)
    items = with_rest_trained(_item(url, sample) for url, sample in found)
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise DatasetError(f"{source} holds two pictures of the name {item.key}.")
        seen.add(item.key)
    return CaptionDataset(tuple(item for item in items if item.captions), source)


def _item(url: str, sample: Sample) -> CaptionedItem:
    place = f"{url}#{sample.offset}+{sample.size}!{sample.name}"
    split = split_named(sample.split)
    return CaptionedItem(place, sample.captions, split, sample.file, sample.sha256)


def read_item(item: CaptionedItem, read: Callable[[str], Media]) -> Media:
    """Read a picture, clip or scan, wherever it lies.

    Args:
        item: of a folder or a shard.
        read: reads a path.

    Raises:
        DatasetError: the shard cannot be read, or holds other bytes than its list says.
        MediaError: of `read`.
    """
    place = _PLACE.fullmatch(item.file)
    if place is None:
        return read(item.file)
    content = _fetched(place["tar"], int(place["offset"]), int(place["size"]))
    if hashlib.sha256(content).hexdigest() != item.digest:
        raise DatasetError(
            f"{place['tar']} holds other bytes of {item.key} than its list says: it was changed or "
            "did not arrive whole. Write or copy the shards again; of a server that gives no parts "
            f"of files take simplecache::{place['tar']}."
        )
    # Readers of clips and scans take files.
    with tempfile.TemporaryDirectory(prefix="regard-") as folder:
        path = Path(folder, place["name"])
        path.write_bytes(content)
        return replace(read(str(path)), name=item.key)


def scan(file: IO[bytes], name: str) -> Iterator[Sample]:
    """Yield the samples of a tar, which is read through once.

    Captions are the `captions` (a list) or the `caption` of a sample's .json, or its .txt; the
    .json may say `file` and `split`.

    Args:
        file: the tar.
        name: of the tar, for messages.

    Raises:
        DatasetError: it is damaged.
    """
    media: dict[str, Any] = {}
    about: dict[str, Any] = {}
    current = ""
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is None:
                    continue
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}{slash}{stem}"
                if key != current:
                    yield from _sample(current, media, about)
                    media, about, current = {}, {}, key
                content = stream.read()
                if suffix == "json":
                    about |= json.loads(content)
                elif suffix == "txt":
                    about.setdefault("caption", content.decode("utf-8").strip())
                elif f".{suffix.lower().removesuffix('.gz')}" in _SUFFIXES:
                    media = {
                        "name": f"{stem}.{suffix}",
                        "offset": member.offset_data,
                        "size": len(content),
                        "sha256": hashlib.sha256(content).hexdigest(),
                    }
            yield from _sample(current, media, about)
    except (tarfile.TarError, ValueError, TypeError, OSError) as error:
        raise DatasetError(f"the shard {name} is damaged: {error}.") from error


def _sample(key: str, media: dict[str, Any], about: dict[str, Any]) -> Iterator[Sample]:
    if not media:
        return
    captions = about.get("captions", [about["caption"]] if "caption" in about else [])
    texts = tuple(texts_in(captions, f"the captions of {key}"))
    split = str(about.get("split") or "")
    yield Sample(**media, file=str(about.get("file", key)), captions=texts, split=split)


def _listed(path: str) -> list[tuple[str, Sample]]:
    """Return the samples that a manifest lists, each with its tar."""
    with opened(path) as file:
        text = file.read()
    try:
        values = json.loads(text)
        if values["format_version"] != FORMAT_VERSION:
            raise DatasetError(
                f"{path} has the format {values['format_version']}; this regard reads "
                f"{FORMAT_VERSION}."
            )
        return [
            (path.removesuffix(MANIFEST) + shard["name"], Sample(**sample | _checked(sample)))
            for shard in values["shards"]
            for sample in shard["samples"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is no list of shards, or damaged: {error!r}.") from error


def _checked(sample: dict[str, Any]) -> dict[str, Any]:
    captions = texts_in(sample["captions"], f"the captions of {sample['file']}")
    return {"captions": tuple(captions), "split": str(sample["split"] or "")}


def _expanded(pattern: str) -> list[str]:
    """Return the tars that a pattern names, in order."""
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise MissingExtra("webdataset", "devices", "a pattern of shards") from error
    found: list[str] = []
    for url in braceexpand(pattern):
        if "*" not in url:
            found.append(url)
            continue
        with _of_filesystem(url) as (files, path):
            found += sorted(str(files.unstrip_protocol(name)) for name in files.glob(path))
    if not found:
        raise DatasetError(f"{pattern} names no shard.")
    return found


@contextmanager
def opened(url: str) -> Generator[IO[bytes]]:
    """Open a file that any of fsspec's file systems holds.

    Raises:
        DatasetError: it cannot be read.
        MissingExtra: fsspec is not installed.
    """
    with _of_filesystem(url) as (files, path), files.open(path, "rb") as file:
        yield file


def _fetched(url: str, offset: int, size: int) -> bytes:
    with _of_filesystem(url) as (files, path):
        content = files.cat_file(path, start=offset, end=offset + size)
    # A server may ignore the range and send all.
    return content if len(content) <= size else content[offset : offset + size]


@contextmanager
def _of_filesystem(url: str) -> Generator[tuple[Any, str]]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtra("fsspec", "devices", "reading shards") from error
    try:
        yield url_to_fs(url)
    except DatasetError:
        raise
    except Exception as error:  # every file system has its own
        raise DatasetError(f"{url} cannot be read: {type(error).__name__}: {error}.") from error
