"""All writers to disk: prepare old data, write new data, check that all files are intact.

`prepare` and `check` run in a normal environment; `act` runs in a child in the faulty one.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.environments import command

KEY = ("0123abcd", (16, 16), 32)
"""Encoder, grid and features of the store."""


@dataclass(frozen=True)
class Work:
    """A writer.

    Attributes:
        name: its name.
        prepare: writes the old data into a folder.
        act: writes the new data.
        check: returns "" if the old or the new data are intact, else what is lost.
        clashes: whether a folder without permission must cause an error.
        every: step over the free sizes of a full disk, for slow writers.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path], int | None]
    check: Callable[[Path], str]
    clashes: bool = True
    every: int = 1


def toy(name: str = "toy", seed: int = 0) -> Any:
    """Return a small captioner of pictures."""
    import torch

    from regard.captioner import Captioner
    from regard.config import DecoderConfig, EncoderConfig, Recipe
    from regard.model.decoder import AttentionDecoder
    from regard.model.encoders import build_encoder
    from regard.text.vocabulary import SPECIALS, Vocabulary

    encoder = build_encoder(EncoderConfig(name="small_cnn", level="stride8", image_size=32))
    words = Vocabulary((*SPECIALS, "a", "dog", "cat", "runs", "sits", "on", "grass", "red"))
    sizes = DecoderConfig(embedding_dim=16, hidden_dim=16, attention_dim=16, grid_shape=(4, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = AttentionDecoder(
            sizes, annotation_dim=encoder.annotation_dim, vocabulary_size=len(words)
        )
    config = EncoderConfig(name="small_cnn", level="stride8", image_size=32)
    recipe = Recipe(name="toy", encoder=config, decoder=sizes)
    return Captioner(encoder, decoder, words, recipe, name=name)


def pictures(folder: Path, count: int = 8) -> Path:
    """Write pictures and a CSV with two captions of each; return the CSV."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,caption,split"]
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 255, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
        split, what = ("val" if i % 4 == 3 else "train"), ("dog" if i % 2 else "cat")
        lines += [f"{i}.jpg,a {what} runs,{split}", f"{i}.jpg,a red {what} sits on grass,{split}"]
    captions = folder / "captions.csv"
    captions.write_text("\n".join(lines) + "\n", "utf-8")
    return captions


SETTINGS = (
    "encoder.name=small_cnn", "encoder.level=stride8", "encoder.image_size=32",
    "decoder.embedding_dim=16", "decoder.hidden_dim=16", "decoder.attention_dim=16",
    "data.min_count=1", "training.batch_size=4", "evaluation.diary_pictures=1",
)  # fmt: skip
"""Settings of a training that takes a second."""


def training(folder: Path, *more: str) -> Any:
    """Return the recipe of a training on the pictures in a folder."""
    from regard.config import Recipe
    from regard.recipes import override

    data = (f'data.annotations="{folder / "captions.csv"}"', f'data.images="{folder}"')
    return override(Recipe(), [*SETTINGS, *data, *more])


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _remember(folder: Path, what: str) -> None:
    (folder / "before.json").write_text(json.dumps(contents(folder / what)), "utf-8")


def _before(folder: Path) -> dict[str, str]:
    return json.loads((folder / "before.json").read_text("utf-8"))


def _left_over(folder: Path) -> str:
    left = [p.name for p in folder.rglob(".*") if ".new" in p.name or p.name.endswith(".old")]
    return f"left behind: {', '.join(left)}" if left else ""


def _prepare_model(folder: Path) -> None:
    toy("old").save(folder / "model", metrics={"scores": {"bleu4": 1.0}})
    _remember(folder, "model")


def _save(folder: Path) -> None:
    toy("new", seed=1).save(folder / "model")


def _check_model(folder: Path) -> str:
    from regard import load

    name = load(str(folder / "model")).name
    if name == "old" and contents(folder / "model") != _before(folder):
        return "the old model was changed"
    return _left_over(folder)


def _prepare_store(folder: Path) -> None:
    fill(folder, 2)
    _remember(folder, "store")


def fill(folder: Path, count: int) -> None:
    from regard.data.store import AnnotationStore, StoreKey

    store = AnnotationStore(folder / "store", StoreKey(*KEY))
    wanted = [(f"digest{i}", "plain", str(i)) for i in range(count)]
    for _ in store.fill(wanted, encoded, batch_size=2):
        pass


def encoded(pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    cells, features = int(np.prod(KEY[1])), KEY[2]
    vectors = np.stack([np.full((cells, features), int(file), np.float16) for file, _ in pairs])
    return vectors, np.ones((len(pairs), cells), bool)


def _check_store(folder: Path) -> str:
    from regard.data.store import AnnotationStore, StoreKey

    store = AnnotationStore(folder / "store", StoreKey(*KEY))
    now = contents(folder / "store")
    if any(now.get(name) != digest for name, digest in _before(folder).items()):
        return "what the store held was changed"
    for i in range(40):
        if ((f"digest{i}", "plain") in store) < (i < 2):
            return f"row {i} is gone"
        if (f"digest{i}", "plain") in store:
            vectors, _ = store.read([(f"digest{i}", "plain")])
            if not (vectors == i).all():
                return f"row {i} holds another's vectors"
    return _left_over(folder)


def _prepare_drawings(folder: Path) -> None:
    _prepare_model(folder)
    pictures(folder / "pictures", 2)
    status = _draw(folder)
    assert status == 0, status
    (folder / "out" / "notes.txt").write_text("mine\n", "utf-8")
    _remember(folder, "out")


def _draw(folder: Path) -> int:
    files = [str(folder / "pictures" / f"{i}.jpg") for i in range(2)]
    out, model = str(folder / "out"), str(folder / "model")
    return command("caption", *files, "--model", model, "--explain", out, "--max-length", "3")


def _explain(folder: Path) -> int:
    files = [str(folder / "pictures" / "0.jpg")]
    return command("explain", *files, "--model", str(folder / "model"), "--out",
                   str(folder / "out"), "--beam", "1")  # fmt: skip


def _check_drawings(folder: Path) -> str:
    from PIL import Image

    now = contents(folder / "out")
    if now.get("notes.txt") != _before(folder)["notes.txt"]:
        return "a file beside the drawings was changed"
    for path in (folder / "out").glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    if not _before(folder).keys() <= now.keys():
        return "an old drawing is gone"
    return _left_over(folder)


class _StopTraining(Exception):
    """Ends a training as a kill would."""


def _prepare_run(folder: Path) -> None:
    """Write a run that was killed after its second epoch."""
    from regard.training import train
    from regard.training.logs import Silent

    class Ends(Silent):
        def evaluated(self, epoch: int, scores: Any, samples: Any) -> None:
            if epoch == 2:
                raise _StopTraining

    pictures(folder / "pictures")
    try:
        train(training(folder / "pictures", "training.epochs=3"), folder / "run", report=Ends())
    except _StopTraining:
        pass
    else:
        raise AssertionError("the training was not ended")
    _remember(folder, "run")


def _resume(folder: Path) -> int:
    return command("train", "--resume", str(folder / "run"))


def _check_run(folder: Path) -> str:
    from regard.checkpoint.folder import load_checkpoint

    now = folder / "run"
    state = load_checkpoint(now / "last", training=True).training_state
    if state is None:
        return "the run cannot be resumed"
    if (now / "best").exists():
        load_checkpoint(now / "best")
    lines = [json.loads(line) for line in (now / "log.jsonl").read_text("utf-8").splitlines()[:-1]]
    if not lines:
        return "the log is empty"
    if not all(name in contents(now) for name in _before(folder) if "tensorboard" not in name):
        return f"gone: {_before(folder).keys() - contents(now).keys()}"
    return ""


def _prepare_light(folder: Path) -> None:
    from regard.export import export_model

    _prepare_model(folder)
    export_model(folder / "model")
    _remember(folder, "model")


def _export(folder: Path) -> int:
    return command("export", str(folder / "model"))


def _check_light(folder: Path) -> str:
    from regard import load

    load(str(folder / "model"), backend="onnx").caption(np.zeros((8, 8, 3), np.uint8), beam=1)
    if contents(folder / "model").keys() != _before(folder).keys():
        return f"the folder holds {sorted(contents(folder / 'model'))}"
    return _left_over(folder)


def _prepare_cache(folder: Path) -> None:
    """Write a fake compiler that copies a library built by the real one."""

    from regard.native import cpp_library

    (folder / "cache").mkdir()
    os.environ |= {"XDG_CACHE_HOME": str(folder / "made"), "TMPDIR": str(folder)}
    try:
        made = cpp_library._built("float32")  # pyright: ignore[reportPrivateUsage]
    finally:
        os.environ.pop("TMPDIR")
    compiler = folder / "compiler"
    compiler.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo 1; exit; fi\n'
        'while [ "$1" != -o ]; do shift; done\n'
        f'cat "{made}" > "$2" || {{ echo "error: no space" >&2; exit 1; }}\n',
        "utf-8",
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _compile(folder: Path) -> None:

    from regard.native import cpp_library

    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "CXX": str(folder / "compiler")}
    os.environ.pop("REGARD_KERNELS", None)
    cpp_library._loaded.cache_clear()  # pyright: ignore[reportPrivateUsage]
    cpp_library.library("float32")  # None, and a warning, if the cache is not writable


def _check_cache(folder: Path) -> str:

    from regard.native import cpp_library

    for path in (folder / "cache").rglob("*.so"):
        cpp_library.Library(path, "float32")
    return ""


WORKS = (
    Work("Captioner.save", _prepare_model, _save, _check_model),
    Work("filling a store", _prepare_store, lambda folder: fill(folder, 40), _check_store),
    Work("regard caption --explain", _prepare_drawings, _draw, _check_drawings),
    Work("regard explain", _prepare_drawings, _explain, _check_drawings),
    Work("regard train --resume", _prepare_run, _resume, _check_run),
    Work("regard export", _prepare_light, _export, _check_light, every=3),
    Work("cache of compiled loops", _prepare_cache, _compile, _check_cache, clashes=False),
)
