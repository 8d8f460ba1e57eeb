"""Evaluation of out-of-distribution notices: how often they occur, by kind of input.

Held-out scans should get no notice. These should get one: held-out scans upside down, mirrored
front to back, with black and white exchanged, with noise, at twice the size; scans of other kinds
that nilearn, nibabel and pydicom ship; synthetic volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import regard
from projects.hippocampus.data import load_facts
from regard import Captioner, MediaError, MissingExtra
from regard.types import Media, Scan


@dataclass(frozen=True)
class NoticeCount:
    """Number of inputs of a kind that got a notice.

    Attributes:
        inputs: their kind.
        noticed: number with a notice; None if they cannot be read.
        total: number of inputs.
        first: text of the first notice, or why they cannot be read.
    """

    inputs: str
    noticed: int | None
    total: int
    first: str

    def row(self) -> str:
        """Return a row of a Markdown table."""
        noticed = "refused" if self.noticed is None else self.noticed
        return f"| {self.inputs} | {noticed} | {self.total} | {self.first} |"


HEADER = "| inputs | with a notice | of | the first one says |\n|---|---|---|---|"


def count_notices(folder: Path, model: str = "hippocampus-soft") -> Iterator[NoticeCount]:
    """Yield how many inputs of each kind get a notice.

    Args:
        folder: written by `projects.hippocampus.data.write_data`.
        model: as `regard.load` takes it.
    """
    book = load_facts(folder / "facts.json")
    captioner = regard.load(model)
    held_out: list[Scan] = []
    for split in ("train", "val", "test"):
        names = book.real_scans(split)
        scans = [captioner.encoder.read(folder / "scans" / name) for name in names]
        yield _count(captioner, f"real {split} scans", scans)
        held_out += [s for s in scans if isinstance(s, Scan) and split == "test"]
    for name, made in changed_scans(held_out).items():
        yield _count(captioner, name, list[Media](made))
    for name, source in other_scans():
        try:
            yield _count(captioner, name, [captioner.encoder.read(source)])
        except (MediaError, MissingExtra) as error:
            yield NoticeCount(name, None, 1, str(error))


def _count(model: Captioner, name: str, media: list[Media]) -> NoticeCount:
    captions = model.caption(media, max_length=1)
    notices = [n for caption in captions for n in caption.notices if n.startswith("Unlike")]
    first = notices[0].partition(": ")[2] if notices else ""
    return NoticeCount(name, len(notices), len(captions), first)


def changed_scans(scans: list[Scan]) -> dict[str, list[Scan]]:
    """Return altered copies of scans, by the kind of change."""
    draw = np.random.default_rng(0)

    def each(change: Callable[[np.ndarray], np.ndarray]) -> list[Scan]:
        return [replace(s, pixels=np.ascontiguousarray(change(s.pixels))) for s in scans]

    def shuffled(pixels: np.ndarray) -> np.ndarray:
        return draw.permutation(pixels.reshape(-1)).reshape(pixels.shape)

    def noisy(pixels: np.ndarray) -> np.ndarray:
        return pixels + draw.normal(0, pixels.std(), pixels.shape).astype(np.float32)

    return {
        "upside down": each(lambda p: p[::-1]),
        "front to back": each(lambda p: p[:, ::-1]),
        "left to right": each(lambda p: p[:, :, ::-1]),
        "black for white": each(lambda p: p.max() - p),
        "voxels shuffled": each(shuffled),
        "noise as strong as the picture": each(noisy),
        "twice as large": [replace(s, affine=s.affine @ np.diag([2, 2, 2, 1])) for s in scans],
        "said to be CT": [replace(s, modality="CT") for s in scans],
        "slices of 3 mm": [replace(s, affine=s.affine @ np.diag([3, 1, 1, 1])) for s in scans],
    }


def other_scans() -> Iterator[tuple[str, object]]:
    """Yield scans of other kinds, as far as the packages that ship them are installed."""
    shape = (36, 50, 35)
    yield "noise", np.random.default_rng(0).normal(size=shape).astype(np.float32)
    yield "gradient", np.mgrid[: shape[0], : shape[1], : shape[2]][0].astype(np.float32)
    ball = ((np.stack(np.mgrid[: shape[0], : shape[1], : shape[2]], -1) - 18) ** 2).sum(-1) < 150
    yield "a ball", ball.astype(np.float32)
    try:
        from nilearn.datasets import load_mni152_template

        whole = load_mni152_template(resolution=2)
        yield "MNI152, whole head", whole
        fine = load_mni152_template(resolution=1)
        yield "MNI152, a crop of the cortex at 1 mm", fine.slicer[40:76, 20:70, 110:146]
    except ImportError:
        pass
    try:
        import nibabel
        from nibabel.testing import data_path

        yield "nibabel's anatomical.nii", nibabel.load(Path(data_path) / "anatomical.nii")
    except ImportError:
        pass
    try:
        from pydicom.data import get_testdata_file

        yield "pydicom's CT_small.dcm", get_testdata_file("CT_small.dcm")
        yield "pydicom's MR_small.dcm", get_testdata_file("MR_small.dcm")
    except ImportError:
        pass
