"""`python -m benchmarks caption`: photographs on disk to captions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

import regard
from benchmarks.measure import Report
from benchmarks.memory import peak_of
from regard.captioner import Captioner, Failure
from regard.errors import DatasetError

_SIZE = (640, 480)
_QUALITY = 90


def measure_captioning(
    *,
    model: str | None = None,
    images: Path | None = None,
    pictures: int = 512,
    beam: int = 3,
    batch_size: int = 32,
    rounds: int = 3,
    seconds: float = 60.0,
    memory: bool = True,
    threads: int = 2,
) -> Report:
    """Time reading, decoding, resizing, encoding and captioning of files; nothing is kept.

    Args:
        model: folder or name; None: the shipped one.
        images: folder of pictures; None: pictures are made from the samples.
        pictures: maximum number of pictures.
        beam: beam width.
        batch_size: pictures that go through the network together.
        rounds: number of rounds over all pictures.
        seconds: time after which no further round starts.
        memory: whether to measure memory, in a process of its own.
        threads: number of threads; with fewer than 150 pictures, graphs use every core.

    Raises:
        DatasetError: the folder holds no pictures.
    """
    with _folder(images, pictures) as folder:
        paths = _paths(folder, pictures)
        began = time.perf_counter()
        captioner = _loaded(model, len(paths), threads)
        _caption(captioner, paths[:batch_size], beam, batch_size)
        start = time.perf_counter() - began
        failed = 0
        walls: list[float] = []
        cpus: list[float] = []
        while len(walls) < rounds and (len(walls) < 2 or sum(walls) < seconds):
            wall, cpu = time.perf_counter(), time.process_time()
            failed = _caption(captioner, paths, beam, batch_size)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        settings: dict[str, int] = {"pictures": len(paths), "beam": beam}
        settings |= {"batch_size": batch_size, "threads": threads}
        arguments = {"model": model, "folder": str(folder)} | settings
        taken = peak_of(__name__, "caption_once", arguments, threads) if memory else None
    speeds = [len(paths) / wall for wall in walls]
    busy = [cpu / wall / threads for wall, cpu in zip(walls, cpus, strict=True)]
    return Report(
        "caption",
        captions_per_s=statistics.median(speeds),
        peak_rss_mb=taken,
        seconds=statistics.median(walls) / len(paths),
        settings={"model": captioner.name} | settings | {"unit": "picture"},
        details={
            "captions_per_s_spread": [min(speeds), max(speeds)],
            "rounds": len(walls),
            "cpu_busy": statistics.median(busy),
            "seconds_to_load": start,
            "failed": failed,
        },
    )  # fmt: skip


def caption_once(
    model: str | None, folder: str, pictures: int, beam: int, batch_size: int, threads: int
) -> None:
    """Load a model and caption a folder, in a process whose memory is measured."""
    paths = _paths(Path(folder), pictures)
    _caption(_loaded(model, len(paths), threads), paths, beam, batch_size)


def _loaded(model: str | None, pictures: int, threads: int) -> Captioner:
    return regard.load(model).accelerated(pictures, cores=threads)


def _caption(captioner: Captioner, paths: list[str], beam: int, batch_size: int) -> int:
    """Caption all pictures, discard the captions, return the number of failures."""
    results = captioner.caption_many(paths, batch_size=batch_size, keep_pixels=False, beam=beam)
    return sum(isinstance(result, Failure) for result in results)


@contextmanager
def _folder(images: Path | None, pictures: int) -> Generator[Path]:
    if images is not None:
        yield images
        return
    with TemporaryDirectory(prefix="regard-bench-") as folder:
        make_pictures(Path(folder), pictures)
        yield Path(folder)


def _paths(folder: Path, pictures: int) -> list[str]:
    paths = sorted(str(p) for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise DatasetError(f"{folder} holds no .jpg files. Name a folder of photographs.")
    return paths[:pictures]


def make_pictures(folder: Path, count: int, *, seed: int = 0) -> None:
    """Write distinct 640×480 JPEGs: random parts of the sample photographs, some mirrored.

    Args:
        folder: an existing folder.
        count: number of pictures.
        seed: seed of the parts.
    """
    samples = files("regard") / "samples"
    names = sorted(s.name for s in samples.iterdir() if s.name.endswith(".jpg"))
    sources = [Image.open(str(samples / name)).convert("RGB") for name in names]
    generator = np.random.default_rng(seed)
    for number in range(count):
        source = sources[number % len(sources)]
        share = generator.uniform(0.5, 1.0)
        width, height = source.width * share, source.height * share
        left, top = (
            generator.uniform(0, source.width - width),
            generator.uniform(0, source.height - height),
        )
        part = source.resize(_SIZE, box=(left, top, left + width, top + height))
        if generator.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        part.save(folder / f"{number:05d}.jpg", quality=_QUALITY)
