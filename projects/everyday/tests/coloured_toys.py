"""A small world: pictures of coloured squares on grey, where every concept has its own colour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from projects.everyday.concept_words import ConceptWords
from projects.everyday.encode import Parts
from regard.config import EncoderConfig
from regard.model.encoders import PictureEncoder

SIDE, PATCH = 4, 4  # cells and pixels of a cell
PARTS = Parts(tokens=12, dense=8)
COLOURS = {"ball": (230, 40, 40), "box": (40, 60, 230), "fire hydrant": (40, 210, 60)}
WORDS = ConceptWords(
    {"ball": "", "box": "", "fire hydrant": "", "snow": "snow"},
    {"hydrant": "fire hydrant"},
    {"beach ball": "ball"},
)
CONFIG = EncoderConfig("coloured", SIDE * PATCH, "stride4", "squash")
Shown = dict[str, tuple[int, int]]
"""Where a concept's square of 2×2 cells begins, (row, col), by concept."""


class ColourEncoder(PictureEncoder):
    """Both parts are fixed functions of a cell's mean colour, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self._read_squares(CONFIG, {"stride4": PATCH}, multiple=PATCH, mean=128.0, std=64.0)
        self.annotation_dim = sum(PARTS.sizes)
        self.batches = 0
        generator = torch.Generator().manual_seed(0)
        self.maps = [torch.randn(4, size, generator=generator) for size in PARTS.sizes]

    def feature_map(self, pixels: Tensor) -> Tensor:
        self.batches += 1
        colours = functional.avg_pool2d(pixels, PATCH).permute(0, 2, 3, 1)
        colours = torch.cat([colours, torch.ones_like(colours[..., :1])], -1)
        parts = [functional.layer_norm(colours @ w, w.shape[1:]) for w in self.maps]
        return torch.cat(parts, -1).permute(0, 3, 1, 2)


def draw(path: Path, shown: Shown, shade: int) -> None:
    """Write a picture; its shade of grey makes it unlike the others."""
    pixels = np.full((SIDE * PATCH, SIDE * PATCH, 3), 90 + shade, np.uint8)
    for concept, (row, col) in shown.items():
        rows, cols = (slice(PATCH * at, PATCH * (at + 2)) for at in (row, col))
        pixels[rows, cols] = COLOURS[concept]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def scenes(count: int, seed: int) -> list[Shown]:
    """Return what pictures show: one concept in the upper half, and another below in every second.

    The concepts take turns, so that each is the only one of some pictures.
    """
    rng = np.random.default_rng(seed)
    names, found = list(COLOURS), list[Shown]()
    for number in range(count):
        shown = {names[number % 3]: (0, int(rng.integers(3)))}
        if number % 2:
            shown[names[(number + 1) % 3]] = (2, int(rng.integers(3)))
        found.append(shown)
    return found


def caption(shown: Shown) -> str:
    """Say what a picture shows."""
    return " and ".join(f"a {concept}" for concept in shown) + " in the picture"


def write_data(folder: Path) -> Path:
    """Write all sets of the recipe, small, and return their folder."""
    shade = iter(range(200))
    sets = {"flickr8k": (24, 5, 6), "general": (9, 1, 3), "everyday_dev": (6, 2, 6)}
    for seed, (name, (count, captions, val)) in enumerate(sets.items()):
        images, boxes = list[dict[str, object]](), dict[str, list[dict[str, object]]]()
        for number, shown in enumerate(scenes(count, seed)):
            file = f"{name}_{number}.png"
            draw(folder / name / "images" / file, shown, next(shade))
            texts = [{"raw": caption(shown), "tokens": caption(shown).split()}] * captions
            split = "val" if number < val else "train"
            image: dict[str, object] = {"filename": file, "split": split, "sentences": texts}
            images.append(image | {"proper_names": name == "general" and number == val})
            boxes[file] = [
                {"name": concept, "box": [col / SIDE, row / SIDE, 2 / SIDE, 2 / SIDE]}
                for concept, (row, col) in shown.items()
            ]
        place = folder / name
        (place / f"dataset_{name}.json").write_text(json.dumps({"images": images}))
        (place / "boxes.json").write_text(json.dumps(boxes))
    _write_labels(folder / "labels", next(shade))
    texts = ["A ball next to a hydrant and a box in the picture."] * 3 + [
        "too short",
        "1 box 2 3 4",
    ]
    (folder / "coco_text").mkdir()
    (folder / "coco_text" / "captions.txt").write_text("\n".join(texts))
    return folder


def _write_labels(folder: Path, shade: int) -> None:
    labels: Sequence[str] = ("beach ball", "box", "hydrant", "unknown thing")
    rows = ["file,label,source"]
    for number in range(36):
        label = labels[number % 4]
        concept = WORDS.of_label(label)
        shown: Shown = {concept: (1, number % 3)} if concept else {}
        draw(folder / "images" / f"label_{number}.png", shown, shade + number)
        rows.append(f"label_{number}.png,{label},toys")
    (folder / "labels.csv").write_text("\n".join(rows))
