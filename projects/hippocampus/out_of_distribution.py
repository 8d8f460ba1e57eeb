"""How often a model of scans says that an input is unlike its training data, rightly and wrongly.

    python benchmarks/familiarity.py hippo --model hippocampus-soft

Held-out scans should get no notice. What should get one: those scans upside down, mirrored front
to back, with black and white exchanged, with noise, at twice the size; scans of other kinds that
nilearn, nibabel and pydicom ship; made volumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from projects.hippocampus.data import load_facts
from regard.captioner import Captioner
from regard.errors import MediaError, MissingExtra
from regard.pretrained import find_model
from regard.types import Media, Scan


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="of `regard data hippocampus`")
    parser.add_argument("--model", default="hippocampus-soft")
    asked = parser.parse_args()
    book = load_facts(asked.folder / "facts.json")
    model = Captioner.load(find_model(asked.model))
    print("| inputs | with a notice | of | the first one says |\n|---|---|---|---|")
    held_out: list[Scan] = []
    for split in ("train", "val", "test"):
        names = [k for k, s in book.splits.items() if s == split and "_copy" not in k]
        scans = [model.encoder.read(asked.folder / "scans" / name) for name in names]
        show(model, f"real {split} scans", scans)
        held_out += [s for s in scans if isinstance(s, Scan) and split == "test"]
    for name, made in changed(held_out).items():
        show(model, name, made)
    for name, source in others():
        try:
            show(model, name, [model.encoder.read(source)])
        except (MediaError, MissingExtra) as error:
            print(f"| {name} | refused | 1 | {error} |")


def show(model: Captioner, name: str, media: list[Media] | list[Scan]) -> None:
    """Print one row."""
    made = model.caption(list(media), max_length=1)
    said = [n for caption in made for n in caption.notices if n.startswith("Unlike")]
    first = said[0].partition(": ")[2] if said else ""
    print(f"| {name} | {len(said)} | {len(made)} | {first} |", flush=True)


def changed(scans: list[Scan]) -> dict[str, list[Scan]]:
    """Return scans of the known kind, spoilt."""
    draw = np.random.default_rng(0)

    def each(change: object) -> list[Scan]:
        return [
            replace(s, pixels=np.ascontiguousarray(change(s.pixels)))  # type: ignore[operator]
            for s in scans
        ]

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


def others() -> Iterator[tuple[str, object]]:
    """Yield scans of other kinds, as far as their packages are here."""
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


if __name__ == "__main__":
    main()
