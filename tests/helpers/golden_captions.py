"""The golden record's captions: sample media on every path, searched for in every way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

import regard
from tests.helpers import digests

SAMPLES = Path(regard.__file__).parent / "samples"
PHOTOGRAPHS = ("astronaut.jpg", "cat.jpg", "china.jpg", "dog.jpg", "friends.jpg", "moonwalk.jpg")
SCAN, CLIP = "hippocampus.nii.gz", "clip.mp4"
_SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"method": "greedy"},
    "beam 3": {"beam": 3, "n_best": 3},
    "sampled": {"method": "sample", "seed": 7, "top_k": 40, "temperature": 0.9},
}
_MANY = 2000  # items from which on a captioner has its compiled steps made


@contextmanager
def kernels(kind: str) -> Generator[None]:
    """Fix whether the compiled loops are used: "plain" or "native"."""
    os.environ.pop("REGARD_KERNELS", None)
    if kind == "plain":
        os.environ["REGARD_KERNELS"] = "plain"
    try:
        yield
    finally:
        os.environ.pop("REGARD_KERNELS", None)


def write_media(folder: Path) -> None:
    """Copy the samples to a folder, and write a clip of three of them."""
    for name in (*PHOTOGRAPHS, SCAN):
        shutil.copy(SAMPLES / name, folder / name)
    with av.open(str(folder / CLIP), "w") as out:
        stream = out.add_stream("libx264", rate=8, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for name in ("dog.jpg", "cat.jpg", "moonwalk.jpg"):
            with Image.open(folder / name) as photograph:
                wide = np.asarray(photograph.convert("RGB").resize((184, 120)))
            for left in range(0, 24, 2):
                pixels = np.ascontiguousarray(wide[:, left : left + 160])
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))


def captions(folder: Path) -> dict[str, Any]:
    """Return the captions of eight media by model, path, search and file."""
    write_media(folder)
    found: dict[str, Any] = {"clip": digests.of_file(folder / CLIP)}
    for path in ("onnx", "onnx fast", "torch plain", "torch native"):
        for model, medium, files in (
            ("flickr8k-soft", "image", PHOTOGRAPHS),
            ("flickr8k-hard", "image", PHOTOGRAPHS),
            ("flickr8k-soft", "video", (CLIP,)),
            ("flickr8k-hard", "video", (CLIP,)),
            ("hippocampus-soft", "volume", (SCAN,)),
        ):
            place = found.setdefault(f"{model} {medium}", {})
            with kernels("plain" if path == "torch plain" else "native"):
                place[path] = _guarded(model, medium, files, path)
    native, plain = (_beams(found, path) for path in ("torch native", "torch plain"))
    found["native runs"] = native != plain  # else both were the same path
    return found


def captions_of(model: str, medium: str, files: Sequence[str], path: str) -> dict[str, Any]:
    """Return digests of a model's captions by search and file."""
    captioner = regard.load(model, medium=medium, backend=path.split()[0])
    if path == "onnx fast":
        captioner = captioner.accelerated(_MANY, cores=2)
    contexts = ("expected",)
    if model.endswith("hard"):  # of clips, which take long, one will do
        contexts = ("expected", "argmax", "sample") if medium == "image" else ("sample",)
    found: dict[str, Any] = {}
    for name, search in _SEARCHES.items():
        for context in contexts:
            said = captioner.caption(list(files), context=context, **search)
            found[f"{name} {context}"] = {c.file: digests.of_caption(c) for c in said}
    return found


def _beams(found: dict[str, Any], path: str) -> list[Any]:
    """Return digests that hardly any two paths share: attention on every photograph."""
    said = found["flickr8k-soft image"][path].get("beam 3 expected", {})
    return [one["alpha"] for one in said.values()]


def _guarded(*given: Any) -> dict[str, Any]:
    """Return the captions, or the error: other paths still have something to say."""
    try:
        return captions_of(*given)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
