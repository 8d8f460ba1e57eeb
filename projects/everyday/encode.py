"""Annotations of all pictures in one store, encoded once.

An annotation has two parts, each normalised to mean 0 and variance 1 over its features:

1. `tokens`: the patch token after the last LayerNorm of CLIP's image tower, 768 features;
2. `dense`: what the last block gives for the patch without its residual and its MLP, with the
   attention of queries with queries, after the last LayerNorm and CLIP's projection, 512 features
   (ClearCLIP, Lan et al. 2024, arXiv 2407.12442).

The tokens describe the picture well, but each of them describes much of it; the dense part tells
what lies in its own cell (docs/experiments/everyday.md).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regard import ConfigError, DatasetError
from regard.config import EncoderConfig
from regard.data import AnnotationStore, StoreKey, load_dataset
from regard.media import digest_of
from regard.model.encoders import PictureEncoder, build_encoder

ENCODER, LEVEL, SIZE = "clip_vit_b16", "dense", 224
VIEW = "plain"
"""The view of the whole picture, as `regard train` names it."""
SETS = ("flickr8k", "general", "labels", "everyday_dev")
_BATCH = 8  # pictures at once: 1,576 rows of a block, whose products fill two cores
_TOLERANCE = 0.05  # of a part's mean and variance in float16 after products in bf16


@dataclass(frozen=True)
class Parts:
    """Features of the two parts of an annotation."""

    tokens: int = 768
    dense: int = 512

    @property
    def sizes(self) -> tuple[int, int]:
        """Sizes in the order of the features."""
        return self.tokens, self.dense


PARTS = Parts()


@dataclass(frozen=True)
class Labelled:
    """A picture and the name that it was collected under."""

    file: str
    label: str
    source: str


def encoder_config(weights: str = "", *, level: str = LEVEL) -> EncoderConfig:
    """Return the recipe of the encoder.

    Args:
        weights: as `encoder.weights`; "": where the encoder finds them by itself.
        level: of the encoder; it must give both parts.
    """
    # Flickr8k's usual copy is squashed to squares, so all pictures are.
    return EncoderConfig(ENCODER, SIZE, level, "squash", weights=weights)


def files_of(data: Path, name: str) -> list[str]:
    """Return the files of a set of pictures.

    Args:
        data: the folder of the data; the README says what is in it.
        name: one of `SETS`.

    Raises:
        DatasetError: the set cannot be read.
    """
    if name == "labels":
        return [picture.file for picture in read_labels(data)]
    return [item.file for item in load_dataset(*places(data, name))]


def training_files(data: Path) -> list[str]:
    """Return the pictures that are trained on: the train splits, and those with labels.

    Raises:
        DatasetError: a set cannot be read.
    """
    found = [
        item.file
        for name in ("flickr8k", "general")
        for item in load_dataset(*places(data, name)).split("train")
    ]
    return found + files_of(data, "labels")


def places(data: Path, name: str) -> tuple[Path, Path]:
    """Return the caption file and the folder of pictures of a set, as `load_dataset` takes them."""
    return data / name / f"dataset_{name}.json", data / name / "images"


def read_labels(data: Path) -> list[Labelled]:
    """Read the pictures with a name each, from `labels/labels.csv` (file, label, source).

    Raises:
        DatasetError: the file cannot be read or has other columns.
    """
    path = data / "labels" / "labels.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            Labelled(str(data / "labels" / "images" / row["file"]), row["label"], row["source"])
            for row in rows
        ]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{path} cannot be read: {error!r}. Expected a CSV file with the columns file, label "
            "and source."
        ) from error


def fill_store(
    folder: Path,
    files: Sequence[str],
    encoder: PictureEncoder | None = None,
    *,
    weights: str = "",
    parts: Parts = PARTS,
    bf16: bool = True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> AnnotationStore:
    """Encode the pictures that a store lacks.

    Args:
        folder: of the store; created if it does not exist.
        files: the pictures.
        encoder: gives annotations of both parts; None: that of `encoder_config`.
        weights: of that encoder, see `encoder_config`.
        parts: sizes of the parts.
        bf16: compute the products in bfloat16, for processors that have them.
        report: is called with (pictures in the store, of those wanted) after every batch.

    Raises:
        ConfigError: the encoder does not give both parts, each normalised.
        DatasetError: the store belongs to another encoder or cannot be written.
        MediaError: a picture cannot be read.
    """
    if encoder is None:
        made = build_encoder(encoder_config(weights))
        assert isinstance(made, PictureEncoder)
        encoder = made
    key = StoreKey(encoder.digest(), encoder.grid_shape, encoder.annotation_dim)
    store = AnnotationStore(folder, key)
    wanted = {(digest_of(file), VIEW): file for file in files}

    def encode(batch: Iterable[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        pixels = [encoder.prepare(encoder.read(Path(file))).pixels for file, _ in batch]
        with torch.inference_mode(), _precision(bf16):
            vectors = encoder(torch.from_numpy(np.stack(pixels))).float()
        check_parts(vectors, parts)
        return vectors.numpy(), np.ones(vectors.shape[:2], bool)

    missing = [(digest, view, file) for (digest, view), file in wanted.items()]
    for done in store.fill(missing, encode, _BATCH):
        report(done, len(wanted))
    return store


def _precision(bf16: bool) -> torch.autocast | nullcontext[None]:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def check_parts(vectors: Tensor, parts: Parts = PARTS) -> None:
    """Check that annotations (N, L, D) have both parts, each of mean 0 and variance 1.

    Raises:
        ConfigError: they do not; a bank that was learned from them would name nothing.
    """
    if vectors.shape[-1] != sum(parts.sizes):
        raise ConfigError(
            f"the encoder gives {vectors.shape[-1]} features; expected {parts.tokens} of the "
            f"patch token and {parts.dense} dense ones. Use the encoder and level of the README."
        )
    for name, part in zip(("tokens", "dense"), vectors.split(parts.sizes, -1), strict=True):
        mean = float(part.mean(-1).abs().max())
        off = float((part.var(-1, correction=0) - 1).abs().max())
        if max(mean, off) > _TOLERANCE:
            raise ConfigError(
                f"the part {name!r} of the annotations has means up to {mean:.3g} and variances "
                f"up to {off:.3g} off 1; expected each cell's part normalised to mean 0 and "
                "variance 1. Use the encoder and level of the README."
            )


def open_store(folder: Path) -> AnnotationStore:
    """Open a store that `fill_store` wrote, without its encoder.

    Raises:
        DatasetError: it does not exist or is damaged.
    """
    path = folder / "store.json"
    try:
        values = json.loads(path.read_text("utf-8"))
        shape = tuple(int(n) for n in values["grid_shape"])
        key = StoreKey(values["encoder"], shape, values["annotation_dim"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} cannot be read: {error!r}. Encode the pictures first (command encode)."
        ) from error
    return AnnotationStore(folder, key)
