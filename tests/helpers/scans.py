"""Scans and captions of scans, made by hand."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import torch

from regard.captioner import Captioner
from regard.config import DecoderConfig, EncoderConfig, Recipe, VolumeConfig
from regard.media import ScanSpec, cell_at, places_of
from regard.media.reader import real_mask, scan_grid
from regard.media.scan.scan_reader import read_scan
from regard.model.encoders import build_encoder
from regard.pipeline import NOT_CLINICAL
from regard.types import AttentionTrace, Caption, Grid, Scan, Word
from tests.helpers import toys

SPEC = ScanSpec((8, 8, 8), (), "percentile")
TURNS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
"""All 48 ways in which a file's axes can run along the world's."""


def rotation(degrees: float) -> np.ndarray:
    """Turn by so many degrees about an axis that is no scan's."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def image(
    turn: tuple[tuple[int, ...], tuple[int, ...]] = ((0, 1, 2), (1, 1, 1)),
    *,
    degrees: float = 0.0,
    bright: tuple[float, float, float] = (10.5, -7.0, 12.5),
) -> nibabel.Nifti1Image:
    """A scan of 30 × 32 × 36 mm about the world's (0, 0, 0), brightest at `bright`.

    Voxels are 3, 2 and 1 mm along world x, y and z; `bright` is in the world before the scan
    is turned by `degrees`.
    """
    order, signs = turn
    size, spacing = np.array([30.0, 32.0, 36.0]), np.array([3.0, 2.0, 1.0])
    affine = np.eye(4)
    shape = []
    for k, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, k] = 0
        affine[world, k] = sign * spacing[world]
        affine[world, 3] = -sign * (size[world] - spacing[world]) / 2
        shape.append(round(size[world] / spacing[world]))
    places = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ places + affine[:3, 3:]
    values = np.abs(world).sum(0) / 10  # something to see
    away = np.abs(world - np.array(bright)[:, None]) / spacing[:, None]
    values[(away <= 1.01).all(0)] = 60
    values[(away < 0.5).all(0)] = 100
    turned = np.eye(4)
    turned[:3, :3] = rotation(degrees)
    return nibabel.Nifti1Image(values.reshape(shape).astype(np.float32), turned @ affine)


def scan(source: nibabel.Nifti1Image | None = None, *, name: str = "scan.nii.gz") -> Scan:
    return read_scan(image() if source is None else source, SPEC, name=name)


def grid_of(made: Scan, shape: tuple[int, ...] = (6, 4, 5), margin: float = 0.0) -> Grid:
    """A grid over the scan, or over a little more or less of it on every side."""
    sizes = (n * mm for n, mm in zip(made.pixels.shape, made.spacing, strict=True))
    return scan_grid(made, tuple((-margin, size + margin) for size in sizes), shape)


def cell_of(grid: Grid, world: np.ndarray | tuple[float, ...]) -> int:
    """The cell that covers a point of the world."""
    place = (places_of(grid, np.eye(4)) @ (*world, 1.0))[:3]
    cell = cell_at(grid, tuple(place))
    assert cell is not None
    return cell


def scan_caption(
    made: Scan,
    grid: Grid,
    looked: dict[str, int | None],
    *,
    chosen: bool = False,
    notices: tuple[str, ...] = (NOT_CLINICAL,),
) -> Caption:
    """A caption each of whose words looked at one cell, or everywhere alike (None)."""
    even = (real_mask(grid) / grid.real_cells).astype(np.float32)
    alpha = np.repeat(even[None], len(looked), axis=0)
    for row, cell in zip(alpha, looked.values(), strict=True):
        if cell is not None:
            row[:] = 0.4 / (grid.cells - 1)
            row[cell] = 0.6
    words = tuple(
        Word(text, -0.5, row.reshape(grid.shape), 0.75, cell if chosen else None,
             ((text, -0.5), ("other", -1.5)), token=4)
        for (text, cell), row in zip(looked.items(), alpha, strict=True)
    )  # fmt: skip
    location = np.array(list(looked.values())) if chosen else None
    trace = AttentionTrace(
        alpha,
        None,
        location,
        "hard" if chosen else "soft",
        "argmax" if chosen else "expected",
        grid,
    )
    return Caption(
        text=" ".join(looked), words=words, score=-1.0, finished=True, trace=trace,
        file=made.name, medium="volume", model="toy", seconds=0.0, notices=notices, media=made,
    )  # fmt: skip


def captioner(slices: int = 3, spacing: tuple[float, ...] = ()):
    """A captioner of scans with random weights: a picture's encoder on every slice."""
    config = EncoderConfig(
        name="small_cnn", image_size=32, level="stride8", medium="volume", trainable=True,
        volume=VolumeConfig((slices, 32, 32), spacing),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = build_encoder(config, pretrained=False)
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7}
    small = toys.decoder(annotation_dim=encoder.annotation_dim, **sizes)
    recipe = Recipe(name="toy", encoder=config, decoder=DecoderConfig(**sizes))  # type: ignore[arg-type]
    return Captioner(encoder, small, toys.vocabulary(), recipe, name="toy-volume")
