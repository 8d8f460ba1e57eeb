"""Teach the encoder of `hippocampus-soft` with masks and numbers; its weights are then frozen.

    regard data hippocampus FOLDER hippo
    python projects/hippocampus/train_encoder.py hippo encoder.safetensors
    regard train hippocampus-soft --data hippo/dataset.json --images hippo \
        --set encoder.weights=encoder.safetensors
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from projects.hippocampus.data import load_facts, read_marked
from projects.hippocampus.facts import ANTERIOR, FACTS, POSTERIOR
from projects.hippocampus.pretrain_masks import Targets, teach_encoder
from projects.hippocampus.volume_pointing import Solid
from regard.config.io import override
from regard.model.encoders import AuxiliaryHeads, Encoder, build_encoder
from regard.recipes import find_recipe


def main() -> None:
    """Read, teach, write; val scans show after each epoch how many facts' classes are right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="of `regard data hippocampus`")
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="hippocampus-soft")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    asked = parser.parse_args()
    recipe = override(find_recipe(asked.recipe), [*asked.settings, 'encoder.weights=""'])
    encoder = build_encoder(recipe.encoder)
    assert isinstance(encoder, AuxiliaryHeads), "the recipe sets encoder.volume.numbers and parts"
    book = load_facts(asked.folder / "facts.json")
    scans = json.loads((asked.folder / "facts.json").read_text("utf-8"))["scans"]
    names = {s: [k for k, split in book.splits.items() if split == s] for s in ("train", "val")}
    values = {
        s: np.array([[scans[k]["values"][f.name] for f in FACTS] for k in of]).astype(np.float32)
        for s, of in names.items()
    }
    mean, spread = values["train"].mean(0), values["train"].std(0)
    found = {
        s: targets(encoder, asked.folder, of, (values[s] - mean) / spread)
        for s, of in names.items()
    }
    began = time.process_time()

    def report(epoch: int, loss: float) -> None:
        with torch.inference_mode():
            said = encoder.predictions(encoder(found["val"].pixels))[0]
        numbers = said.numpy() * spread + mean
        right = [
            fact.class_of(float(value), book.thresholds[fact.name]) == book.classes[k][fact.name]
            for k, row in zip(names["val"], numbers, strict=True)
            for fact, value in zip(FACTS, row, strict=True)
        ]
        seconds = time.process_time() - began
        print(f"epoch {epoch}: loss {loss:.3f}, val facts right {np.mean(right):.3f}, "
              f"{seconds:.0f} s of one core", flush=True)  # fmt: skip
        save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, asked.out)

    teach_encoder(encoder, found["train"], epochs=asked.epochs, report=report)


def targets(encoder: Encoder, folder: Path, names: list[str], numbers: np.ndarray) -> Targets:
    """Read scans and masks."""
    pixels: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    for name in names:
        prepared = encoder.prepare(encoder.read(folder / "scans" / name))
        marked = read_marked(folder / "scans" / name, folder / "masks" / name)
        solids = [
            Solid.of_mask(marked.mask == label, marked.spacing, prepared.grid)
            for label in (ANTERIOR, POSTERIOR)
        ]
        pixels.append(prepared.pixels)
        shares.append(np.stack([solid.shares for solid in solids], -1).astype(np.float32))
    arrays = (np.stack(pixels), numbers.astype(np.float32), np.stack(shares).clip(0, 1))
    return Targets(*map(torch.from_numpy, arrays))


if __name__ == "__main__":
    main()
