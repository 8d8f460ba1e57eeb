"""Damaged checkpoints, vocabularies, recipes, caption files and stores, through the public API.

Half of the damaged checkpoints are forged: their digests are those of the damaged files, so that
the digest check does not stop them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.children import SECRET
from tests.fuzz.document_samples import (
    STORE_KEY,
    damaged_header,
    damaged_json,
    damaged_toml,
    write_document_samples,
)
from tests.fuzz.media import check, refusal, tried
from tests.fuzz.mutators import damaged
from tests.fuzz.tally import Tally

ITEMS = 1000
_LIGHT = ("config.json", "vocabulary.json", "model.safetensors", "graphs.json", "metrics.json",
          "encoder.onnx", "init.onnx", "step.onnx", "config.json", "vocabulary.json")  # fmt: skip
_TORCH = ("config.json", "vocabulary.json", "model.safetensors", "training.pt", "config.json")
_STORE = ("store.json", "listing", "vectors")
_ODD = 0.06  # of the files are missing, empty, a folder, a pipe or a link to the secret


@dataclass(frozen=True)
class Document:
    """A damaged document.

    Attributes:
        kind: "light", "torch", "recipe", "captions" or "store".
        file: file name in its folder.
        content: the damaged content; None: not a regular file, see `oddity`.
        forged: whether digests are updated.
        oddity: "missing", "folder", "link" or "pipe" if `content` is None.
    """

    kind: str
    file: str
    content: bytes | None
    forged: bool = False
    oddity: str = ""


def run(scale: float, seed: int, folder: Path) -> Tally:
    """Try `1,000 × scale` damaged documents, `seed` deciding the damages."""
    write_document_samples(folder)
    count = max(40, round(ITEMS * scale))

    def again(number: int) -> tuple[str, bytes]:
        document = document_of(folder, seed, number)
        name = f"{document.kind}-{Path(document.file).name}"
        return name, document.content if document.content is not None else b""

    return tried(_maker, count, seed, folder, again)


def document_of(folder: Path, seed: int, number: int) -> Document:
    """Return the document of a number; the kinds come in turn."""
    papers = folder / "papers"
    draw = random.Random(f"documents {seed} {number}")
    kind = ("light", "captions", "torch", "recipe", "light", "captions", "store", "torch")[
        number % 8
    ]
    names = {"light": _LIGHT, "torch": _TORCH, "recipe": ("recipe.toml",)}.get(kind)
    if kind == "captions":
        inside = papers / "captions"
        names = tuple(str(p.relative_to(inside)) for p in sorted(inside.rglob("*.*")))
    elif kind == "store":
        suffixes = {"listing": ".json", "vectors": ".npy"}
        found = {s: next(p.name for p in (papers / "store").glob(f"shard-*{s}"))
                 for s in suffixes.values()}  # fmt: skip
        names = tuple(found.get(suffixes.get(name, ""), name) for name in _STORE)
    assert names is not None
    name = draw.choice(names)
    if draw.random() < _ODD:
        # A pipe of captions is a shell's `<(...)`, which is read to its end.
        oddities = ("missing", "folder", "link", *(["pipe"] if kind != "captions" else []))
        return Document(kind, name, None, oddity=draw.choice(oddities))
    place = papers / name if kind == "recipe" else papers / kind / name
    content = _damage(place.read_bytes(), place, folder, draw)
    return Document(kind, name, content, forged=draw.random() < 0.6)


def _damage(content: bytes, path: Path, root: Path, draw: random.Random) -> bytes:
    knows = draw.random() < 0.75
    if path.suffix == ".safetensors" and knows:
        return damaged_header(content, root, draw)
    if knows and path.suffix in (".json", ".toml"):
        change = damaged_json if path.suffix == ".json" else damaged_toml
        return change(content.decode(), root, draw).encode("utf-8", "surrogatepass")
    if knows and path.suffix == ".jsonl":
        lines = content.decode().splitlines()
        at = draw.randrange(len(lines))
        lines[at] = damaged_json(lines[at], root, draw)
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    return damaged(content, os.fsencode(str(root / f"{SECRET}.txt")), draw)


def _write(document: Document, root: Path, own: Path) -> Path:
    """Write a damaged copy below `own`; return its path."""
    papers = root / "papers"
    place = own / document.kind
    if document.kind == "recipe":
        target = own / document.file
    else:
        shutil.copytree(papers / document.kind, place)
        target = place / document.file
    target.unlink(missing_ok=True)
    if document.content is not None:
        target.write_bytes(document.content)
    elif document.oddity == "folder":
        target.mkdir()
    elif document.oddity == "pipe":
        os.mkfifo(target)
    elif document.oddity == "link":
        target.symlink_to("does-not-exist")
    if document.forged and document.kind in ("light", "torch"):
        _forge(place)
    return target if document.kind in ("recipe", "captions") else place


def _forge(folder: Path) -> None:
    """Update the digests in the config to those of the damaged files, as far as possible."""
    config = _loaded(folder / "config.json")
    if isinstance(config, dict) and isinstance(config.get("files"), dict):
        for name in config["files"]:
            if name in os.listdir(folder):
                config["files"][name] = _digest(folder / name)
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    graphs = _loaded(folder / "graphs.json")
    if isinstance(graphs, dict) and isinstance(graphs.get("files"), dict):
        for name in graphs["files"]:
            if name in os.listdir(folder):
                graphs["files"][name] = _digest(folder / name)
        graphs["weights"] = _digest(folder / "model.safetensors")
        try:
            from regard.checkpoint.components import model_digest

            graphs["model"] = model_digest(config)
        except Exception:
            return  # the config is too damaged; so may the graphs be
        (folder / "graphs.json").write_text(json.dumps(graphs), "utf-8")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _maker(own: Path, seed: int) -> Callable[[int], str]:
    from regard.captioner import Captioner

    root = own.parents[1]
    uses = {
        "light": _use_light,
        "torch": _use_torch,
        "recipe": _use_recipe,
        "captions": partial(_use_captions, root / "papers" / "pictures"),
        "store": _use_store,
    }
    for kind, use in uses.items():  # intact ones, and everything that they import
        whole = (
            root
            / "papers"
            / {"recipe": "recipe.toml", "captions": "captions/coco.json"}.get(kind, kind)
        )
        use(whole)
    # Without its graphs the light model runs on torch: MONAI takes seconds to import.
    Captioner.load(root / "papers" / "light", backend="torch")

    def task(number: int) -> str:
        from regard import RegardError

        _clear(own)
        document = document_of(root, seed, number)
        path = _write(document, root, own)
        try:
            with redirect_stdout(StringIO()):
                uses[document.kind](path)
        except RegardError as error:
            return refusal(error)
        return "used"

    return task


def _clear(folder: Path) -> None:
    for made in folder.iterdir():
        shutil.rmtree(made) if made.is_dir() else made.unlink()


def _use_light(folder: Path) -> None:
    from regard import load
    from regard.cli.models_command import info

    info(str(folder), as_json=bool(len(folder.parts) % 2))
    model = load(str(folder))
    scan = np.arange(24 * 32 * 24, dtype=np.float32).reshape(24, 32, 24)
    check(model.caption(scan, beam=2, max_length=4))


def _use_torch(folder: Path) -> None:
    from regard.captioner import Captioner
    from regard.checkpoint.folder import load_checkpoint
    from regard.cli.models_command import info

    info(str(folder), as_json=False)
    load_checkpoint(folder, training=True)
    model = Captioner.load(folder, backend="torch")
    check(model.caption(np.zeros((32, 40, 3), np.uint8), beam=2, max_length=4))


def _use_recipe(path: Path) -> None:
    from regard.recipes import find_recipe, override

    override(find_recipe(str(path)), ["training.epochs=3"])


def _use_captions(pictures: Path, path: Path) -> None:
    from regard.data import load_dataset
    from regard.data.check import check_dataset

    check_dataset(path, pictures).text()
    found = load_dataset(path, pictures)
    json.dumps([found.medium, len(found.with_split(0.5, 0)), found.references()])


def _use_store(folder: Path) -> None:
    from regard.data.store import AnnotationStore, StoreKey

    store = AnnotationStore(folder, StoreKey(*STORE_KEY))
    for digest in [f"digest{i}" for i in range(4)]:
        if (digest, "plain") in store:
            vectors, mask = store.read([(digest, "plain")])
            assert vectors.shape == (1, 4, 3), vectors.shape
            assert mask.shape == (1, 4), mask.shape


__all__ = ["document_of", "run"]
