"""Captions by rule for the hippocampus scans of the Medical Segmentation Decathlon (Task04).

`write_hippocampus` makes a data set of 260 real T1 crops and their masks: a fixed fifth is held
out as test, a seventh of the rest as val, both drawn by scan with a seed. Which scans belong to
one person, and which of the two hippocampi a scan shows, no file says, so that a person may be in
two splits. Thresholds are quantiles of the real training scans (`hippocampus_facts`), captions are
written by `hippocampus_text`: **rule-made text on real scans**, nothing a radiologist wrote.

A training scan can have warped copies: turned, stretched, cropped anew, their grey values changed.
A copy's captions say what is measured on the copy, so that they are as right as the others.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.hippocampus.facts import (
    FACTS,
    Marked,
    Thresholds,
    classify,
    majorities,
    measure,
    thresholds_of,
)
from projects.hippocampus.text import caption
from regard.data.dataset import begin_folder
from regard.errors import DatasetError, MissingExtra, needs_torch
from regard.media import ScanSpec, read_media
from regard.types import Scan
from regard.util.safe_io import json_of, text_of

DESCRIPTION = (
    "Rule-made text on real scans: captions derived from the masks of the hippocampus scans of the "
    "Medical Segmentation Decathlon, Task04 (Antonelli et al. 2022; CC-BY-SA 4.0). Not for "
    "clinical use."
)
TEST_SHARE, VAL_SHARE = 0.2, 0.14
CAPTIONS_OF_A_COPY = 2
_COPY = "_copy"
_AS_IT_IS = ScanSpec((1, 1, 1), (1.0, 1.0, 1.0), "percentile")  # reading needs some window


@dataclass(frozen=True)
class _Written:
    """A scan of the data set."""

    key: str
    split: str
    values: dict[str, float]


def write_hippocampus(
    folder: str | Path,
    out: str | Path,
    *,
    captions: int = 6,
    copies: int = 10,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write scans, masks, `dataset.json` (Karpathy's form) and `facts.json`.

    Args:
        folder: with `images` and `labels`, files of one name in both.
        out: made where it does not exist; what was written into it before is replaced.
        captions: of each real scan; a copy has `CAPTIONS_OF_A_COPY`.
        copies: warped copies of each training scan.
        seed: of split, warping, wordings and their order.
        report: is told (scans done, scans wanted).

    Returns:
        The path of `dataset.json`.

    Raises:
        ConfigError: `out` holds something else.
        DatasetError: a file is missing or the folder cannot be written.
        MediaError: a scan cannot be read.
        MissingExtra: nibabel is not installed.
    """
    with needs_torch("warping scans"):
        from projects.hippocampus.warp import warped
    folder, out = Path(folder), Path(out)
    names = scan_names(folder)
    splits = split_scans(names, seed)
    total = len(names) + copies * sum(split == "train" for split in splits.values())
    written: list[_Written] = []
    try:
        begin_folder(out, DESCRIPTION)
        for place in ("scans", "masks"):
            (out / place).mkdir(parents=True, exist_ok=True)
        for at, name in enumerate(names):
            for source, place in (("images", "scans"), ("labels", "masks")):
                shutil.copyfile(folder / source / name, out / place / name)
            marked = read_marked(out / "scans" / name, out / "masks" / name)
            written.append(_Written(name, splits[name], measure(marked)))
            if splits[name] == "train":
                for copy in range(copies):
                    draw = np.random.default_rng((seed, at, copy))
                    made = warped(marked, draw)
                    key = name.replace(".nii", f"{_COPY}{copy + 1}.nii")
                    _write(made.values, out / "scans" / key)
                    _write(made.mask, out / "masks" / key)
                    written.append(_Written(key, "train", measure(made)))
            report(len(written), total)
        return _write_listings(out, written, captions, seed)
    except OSError as error:
        raise DatasetError(f"the data set cannot be written to {out}: {error}.") from error


def scan_names(folder: Path) -> list[str]:
    """Return the names of the scans that have a mask.

    Raises:
        DatasetError: there is none, or one lacks its mask.
    """
    names = sorted(p.name for p in (folder / "images").glob("[!.]*.nii.gz"))
    missing = [name for name in names if not (folder / "labels" / name).is_file()]
    if not names or missing:
        what = f"no mask labels/{missing[0]}" if missing else "no images/*.nii.gz"
        raise DatasetError(
            f"{folder} has {what}. Wanted: the folders images and labels of the Medical "
            "Segmentation Decathlon's Task04 (hippocampus), files of one name in both."
        )
    return names


def split_scans(names: list[str], seed: int) -> dict[str, str]:
    """Return each scan's split; the same for the same names and seed."""
    order = sorted(names)
    random.Random(seed).shuffle(order)
    test = round(len(order) * TEST_SHARE)
    val = test + round((len(order) - test) * VAL_SHARE)
    return {
        name: "test" if i < test else "val" if i < val else "train" for i, name in enumerate(order)
    }


def read_marked(scan: str | Path, mask: str | Path) -> Marked:
    """Read a scan and its mask, both in canonical orientation.

    Raises:
        DatasetError: they do not lie on one grid.
    """
    values, labels = (read_media(path, _AS_IT_IS) for path in (scan, mask))
    assert isinstance(values, Scan)
    assert isinstance(labels, Scan)
    if values.pixels.shape != labels.pixels.shape or not np.allclose(values.affine, labels.affine):
        raise DatasetError(
            f"{mask} has {labels.pixels.shape} voxels at {labels.affine.round(3).tolist()}, and "
            f"{scan} {values.pixels.shape} at {values.affine.round(3).tolist()}: a mask must lie "
            "on its scan's own voxels."
        )
    return Marked(labels.pixels.round().astype(np.uint8), values.pixels, values.spacing)


def _write(values: np.ndarray, path: Path) -> None:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtra("nibabel", "volume", "writing scans") from error
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4))  # pyright: ignore
    nibabel.save(image, path)  # pyright: ignore


def _is_copy(key: str) -> bool:
    return _COPY in key


def _write_listings(out: Path, written: list[_Written], captions: int, seed: int) -> Path:
    real = [w for w in written if not _is_copy(w.key)]
    thresholds = thresholds_of(w.values for w in real if w.split == "train")
    images: list[dict[str, Any]] = []
    for scan in written:
        draw = random.Random(f"{seed} {scan.key}")
        classes = classify(scan.values, thresholds)
        count = CAPTIONS_OF_A_COPY if _is_copy(scan.key) else captions
        texts = [caption(classes, thresholds, draw) for _ in range(count)]
        images.append(
            {
                "filepath": "scans",
                "filename": scan.key,
                "split": scan.split,
                "sentences": [{"raw": text, "tokens": text.replace(",", "").split()}
                              for text in texts],
            }
        )  # fmt: skip
    facts = {
        "description": DESCRIPTION,
        "thresholds": {name: list(cuts) for name, cuts in thresholds.items()},
        "majorities": {
            split: majorities(classify(w.values, thresholds) for w in real if w.split == split)
            for split in ("train", "val", "test")
            if any(w.split == split for w in real)
        },
        "scans": {w.key: {"split": w.split, "values": w.values,
                          "classes": classify(w.values, thresholds)} for w in written},
    }  # fmt: skip
    (out / "facts.json").write_text(json.dumps(facts, indent=1), "utf-8")
    dataset = out / "dataset.json"
    dataset.write_text(json.dumps({"dataset": DESCRIPTION, "images": images}), "utf-8")
    return dataset


@dataclass(frozen=True)
class FactBook:
    """What `facts.json` says.

    Attributes:
        thresholds: of every fact.
        classes: of every fact of every scan, by the name of its file.
        splits: of every scan.
    """

    thresholds: Thresholds
    classes: dict[str, dict[str, str]]
    splits: dict[str, str]


def load_facts(path: str | Path) -> FactBook:
    """Read `facts.json`.

    Raises:
        DatasetError: it cannot be read, or speaks of other facts.
    """
    try:
        values = json_of(text_of(Path(path)))
        thresholds = {name: tuple(cuts) for name, cuts in values["thresholds"].items()}
        scans = values["scans"]
        book = FactBook(
            thresholds,
            {name: dict(scan["classes"]) for name, scan in scans.items()},
            {name: scan["split"] for name, scan in scans.items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"the facts {path} cannot be used: {error!r}. Wanted: the facts.json of `regard data "
            "hippocampus`."
        ) from error
    if set(thresholds) != {fact.name for fact in FACTS}:
        raise DatasetError(f"{path} was made by another version. Make the data set again.")
    return book
