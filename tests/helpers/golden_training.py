"""The golden record's training runs and checkpoints, on tiny data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

import regard
from regard.config import Recipe
from regard.recipes import override
from tests.helpers import digests
from tests.helpers.golden_captions import kernels, write_media
from tests.helpers.golden_commands import run

_SETTINGS = (
    "name=toy", "encoder.name=small_cnn", "encoder.level=stride8", "encoder.image_size=32",
    "decoder.embedding_dim=16", "decoder.hidden_dim=24", "decoder.attention_dim=12",
    "decoder.dropout=0.3", "data.annotations=captions.csv", "data.images=images",
    "data.min_count=1", "data.flip=true", "data.max_length=8", "training.epochs=4",
    "training.batch_size=4", "training.captions_per_image=2", "training.save_every=1",
    "optimizer.learning_rate=0.01", "optimizer.ema_decay=0.5", "optimizer.clip_norm=1.0",
    "optimizer.warmup_steps=3", "optimizer.schedule=cosine", "evaluation.diary_pictures=2",
)  # fmt: skip
_KINDS: dict[str, tuple[str, ...]] = {
    "soft": ("objective.label_smoothing=0.1", "decoder.gate=feature"),
    "dot, bf16": ("decoder.scores=scaled_dot", "training.precision=bf16"),
    "hard": ("decoder.attention=hard", "objective.kind=hard_attention"),
    "self-critical": (
        "objective.kind=self_critical", "objective.samples=2", "objective.bleu_weight=1.0",
        "objective.cross_entropy_weight=0.1",
    ),
    "fine-tuned": ("encoder.trainable=true", "optimizer.encoder_learning_rate=0.001"),
}  # fmt: skip


def write_data(folder: Path, pictures: int = 12) -> None:
    """Write smooth random pictures and a CSV of two captions each."""
    images = folder / "images"
    images.mkdir()
    lines = ["file,caption,split"]
    for i in range(pictures):
        coarse = np.random.default_rng(i).integers(0, 255, (4, 5, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((60, 40), Image.Resampling.BICUBIC)
        smooth.save(images / f"{i}.png")
        animal, split = ("dog", "cat")[i % 2], "val" if i % 6 == 5 else "train"
        lines += [f"{i}.png,a {animal} runs,{split}"]
        lines += [f"{i}.png,a red {animal} sits on grass,{split}"]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", "utf-8")


class _Watcher:
    """Takes the digest of the weights that each step found, and what was said of the run."""

    def __init__(self, folder: Path) -> None:
        self._weights = folder / "last" / "model.safetensors"
        self.weights: list[str] = []
        self.said: list[Any] = []

    def progress(self, *_: Any) -> None:
        self.weights.append(digests.of_arrays(load_file(self._weights)))

    def encoded(self, done: int, wanted: int) -> None:
        self.said.append([done, wanted])

    def evaluated(self, epoch: int, scores: dict[str, float], samples: list[Any]) -> None:
        self.said.append([epoch, {k: repr(v) for k, v in scores.items()}, samples])

    def message(self, text: str) -> None:
        self.said.append(text)


def training(folder: Path) -> dict[str, Any]:
    """Return losses and digests of weights of 20 steps of every objective, plain and native."""
    write_data(folder)
    found: dict[str, Any] = {}
    for kind, settings in _KINDS.items():
        for path in ("plain", "native"):
            try:
                with kernels(path):
                    found[f"{kind} {path}"] = _run(folder / f"{kind} {path}", settings)
            except Exception as error:
                found[f"{kind} {path}"] = {"error": f"{type(error).__name__}: {error}"}
    pair = [found[f"soft {path}"].get("weights") for path in ("plain", "native")]
    found["native runs"] = pair[0] != pair[1]
    return found


def _run(out: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    watcher = _Watcher(out)
    best = regard.train(override(Recipe(), [*_SETTINGS, *settings]), out, report=watcher)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    for line in steps:
        del line["captions_per_second"]
    state = torch.load(out / "last" / "training.pt", weights_only=True)
    captioner = regard.load(str(best))
    said = captioner.caption([f"images/{i}.png" for i in range(4)], beam=2, min_length=4)
    return {
        "losses": [line["loss"] for line in steps],
        "weights": [*watcher.weights, digests.of_arrays(load_file(out / "last/model.safetensors"))],
        "best": digests.of_arrays(load_file(best / "model.safetensors")),
        "log": digests.of_value([{k: repr(v) for k, v in line.items()} for line in lines]),
        "keys": {line["kind"]: sorted(line) for line in lines},
        "said": watcher.said,
        "state": digests.of_value([[name, str(value)] for name, value in _leaves(state, "")]),
        "diary": digests.of_file(out / "diary.html", out.parent),
        "files": sorted(p.relative_to(out).as_posix() for p in out.glob("*/[!e]*") if p.is_file()),
        "captions": [digests.of_caption(caption) for caption in said],
    }


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the numbers and the digests of the tensors of a saved state, by their path."""
    if isinstance(value, dict):
        for key in value:
            yield from _leaves(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}/{place}")
    elif isinstance(value, torch.Tensor):
        yield path, digests.of_array(value.numpy())
    else:
        yield path, value


def checkpoint(folder: Path) -> dict[str, Any]:
    """Return digests of a model that is saved, loaded, halved and exported, and of the shipped."""
    write_data(folder)
    write_media(folder)
    recipe = override(Recipe(), [*_SETTINGS, "training.save_every=0"])
    first = regard.load(str(regard.train(recipe, folder / "run")))
    first.save(folder / "saved")
    first.save(folder / "half", half=True)
    found: dict[str, Any] = {"export": run("export", "saved", "--out", "light")}
    models = {"trained": first} | {n: regard.load(n) for n in ("saved", "half", "light")}
    files = ["dog.jpg", "images/0.png"]
    said = {
        n: [digests.of_caption(c) for c in m.caption(files, min_length=4)]
        for n, m in models.items()
    }
    found |= {
        "captions": said,
        "round trip": said["trained"] == said["saved"],
        "files": {n: digests.of_folder(folder / n, folder) for n in ("saved", "half", "light")},
        "config": json.loads((folder / "saved" / "config.json").read_text("utf-8")),
        "card": (folder / "saved" / "README.md").read_text("utf-8"),
    }
    found["shipped"] = {
        name: {
            "info": run("info", name),
            "config": run("info", name, "--json"),
            "decoder": _weights(regard.load(name, backend="torch").decoder),
        }
        for name in ("flickr8k-soft", "flickr8k-hard", "hippocampus-soft")
    }
    return found


def _weights(module: torch.nn.Module) -> str:
    return digests.of_arrays({name: x.numpy() for name, x in module.state_dict().items()})
