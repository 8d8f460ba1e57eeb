"""The data set: captions by rule for the hippocampus scans of the Decathlon's Task04.

`write_data` makes a data set of the 260 real T1 crops and their masks: a fixed fifth is held out as
test, a seventh of the rest is val, both drawn by scan with a seed. No file says which scans belong
to one person, so a person may be in two splits. Thresholds are quantiles of the real training scans
(`facts`), captions are written by `text`: **rule-made text on real scans**, not a radiologist's.

A training scan may have warped copies: rotated, stretched, cropped again, with other grey values.
A copy's captions state what is measured on the copy, so they are as true as the others.
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
    MarkedScan,
    Thresholds,
    classify,
    fit_thresholds,
    measure_facts,
    most_frequent_classes,
)
from projects.hippocampus.text import write_caption
from regard import ConfigError, DatasetError, MissingExtra
from regard.errors import needs_torch
from regard.media import ScanSpec, read_media
from regard.types import Scan

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
class _WrittenScan:
    """A scan of the data set."""

    key: str
    split: str
    values: dict[str, float]


def write_data(
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
        out: created if it does not exist; an earlier data set in it is replaced.
        captions: captions of each real scan; a copy has `CAPTIONS_OF_A_COPY`.
        copies: warped copies of each training scan.
        seed: seed of split, warping, wordings and their order.
        report: is called with (scans done, scans in all).

    Returns:
        The path of `dataset.json`.

    Raises:
        ConfigError: `out` holds something other than an earlier data set.
        DatasetError: a file is missing or the folder cannot be written.
        MediaError: a scan cannot be read.
        MissingExtra: nibabel is not installed.
    """
    with needs_torch("warping scans"):
        from projects.hippocampus.warp import warp_scan
    folder, out = Path(folder), Path(out)
    names = scan_names(folder)
    splits = split_scans(names, seed)
    total = len(names) + copies * sum(split == "train" for split in splits.values())
    written: list[_WrittenScan] = []
    try:
        _begin_folder(out)
        for place in ("scans", "masks"):
            (out / place).mkdir(parents=True, exist_ok=True)
        for at, name in enumerate(names):
            for source, place in (("images", "scans"), ("labels", "masks")):
                shutil.copyfile(folder / source / name, out / place / name)
            marked = read_marked_scan(out / "scans" / name, out / "masks" / name)
            written.append(_WrittenScan(name, splits[name], measure_facts(marked)))
            for copy in range(copies if splits[name] == "train" else 0):
                made = warp_scan(marked, np.random.default_rng((seed, at, copy)))
                key = name.replace(".nii", f"{_COPY}{copy + 1}.nii")
                _write_nifti(made.values, out / "scans" / key)
                _write_nifti(made.mask, out / "masks" / key)
                written.append(_WrittenScan(key, "train", measure_facts(made)))
            report(len(written), total)
        return _write_listings(out, written, captions, seed)
    except OSError as error:
        raise DatasetError(f"the data set cannot be written to {out}: {error}.") from error


def _begin_folder(folder: Path) -> None:
    """Create the folder of the data set, or accept one that holds an earlier data set.

    A `dataset.json` is written at once, so that a run that was killed is recognised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "dataset.json"
    try:
        if json.loads(dataset.read_text("utf-8"))["dataset"] == DESCRIPTION:
            return
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # it does not exist, or belongs to another data set
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ConfigError(
            f"{folder} holds something other than this data set, which might be overwritten. Name "
            "a new or empty folder, or one that this command wrote before."
        )
    dataset.write_text(json.dumps({"dataset": DESCRIPTION, "images": []}), "utf-8")


def scan_names(folder: Path) -> list[str]:
    """Return the names of the scans that have a mask.

    Raises:
        DatasetError: the folder holds no scans, or a scan lacks its mask.
    """
    names = sorted(p.name for p in (folder / "images").glob("[!.]*.nii.gz"))
    missing = [name for name in names if not (folder / "labels" / name).is_file()]
    if not names or missing:
        what = f"no mask labels/{missing[0]}" if missing else "no images/*.nii.gz"
        raise DatasetError(
            f"{folder} has {what}. It must hold the folders images and labels of the Medical "
            "Segmentation Decathlon's Task04 (hippocampus), with the same file names in both."
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


def read_marked_scan(scan: str | Path, mask: str | Path) -> MarkedScan:
    """Read a scan and its mask, both in canonical orientation.

    Raises:
        DatasetError: scan and mask do not lie on the same voxels.
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
    return MarkedScan(labels.pixels.round().astype(np.uint8), values.pixels, values.spacing)


def _write_nifti(values: np.ndarray, path: Path) -> None:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtra("nibabel", "volume", "writing scans") from error
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4))  # pyright: ignore
    nibabel.save(image, path)  # pyright: ignore


def _is_copy(key: str) -> bool:
    return _COPY in key


def _write_listings(out: Path, written: list[_WrittenScan], captions: int, seed: int) -> Path:
    real = [w for w in written if not _is_copy(w.key)]
    thresholds = fit_thresholds(w.values for w in real if w.split == "train")
    images: list[dict[str, Any]] = []
    for scan in written:
        draw = random.Random(f"{seed} {scan.key}")
        classes = classify(scan.values, thresholds)
        count = CAPTIONS_OF_A_COPY if _is_copy(scan.key) else captions
        texts = [write_caption(classes, thresholds, draw) for _ in range(count)]
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
            split: most_frequent_classes(
                classify(w.values, thresholds) for w in real if w.split == split
            )
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
    """The contents of `facts.json`.

    Attributes:
        thresholds: thresholds of every fact.
        values: every fact's number of every scan, by the name of its file.
        classes: every fact's class, likewise.
        splits: splits of every scan.
    """

    thresholds: Thresholds
    values: dict[str, dict[str, float]]
    classes: dict[str, dict[str, str]]
    splits: dict[str, str]

    def real_scans(self, split: str) -> list[str]:
        """Return the names of a split's scans without their warped copies."""
        return [key for key, of in self.splits.items() if of == split and not _is_copy(key)]


def load_facts(path: str | Path) -> FactBook:
    """Read `facts.json`.

    Raises:
        DatasetError: it cannot be read, or holds other facts.
    """
    try:
        values = json.loads(Path(path).read_text("utf-8"))
        thresholds = {name: tuple(cuts) for name, cuts in values["thresholds"].items()}
        scans = values["scans"]
        book = FactBook(
            thresholds,
            {name: dict(scan["values"]) for name, scan in scans.items()},
            {name: dict(scan["classes"]) for name, scan in scans.items()},
            {name: scan["split"] for name, scan in scans.items()},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"the facts {path} cannot be used: {error!r}. Expected: the facts.json that `python -m "
            "projects.hippocampus data` writes."
        ) from error
    if set(thresholds) != {fact.name for fact in FACTS}:
        raise DatasetError(
            f"{path} was written by another version and holds other facts. Write the data "
            "set again."
        )
    return book
