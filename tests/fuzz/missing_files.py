"""Files that are removed while they are needed, and clocks that jump during the work."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from regard.training.logs import Silent
from tests.fuzz.environments import command, jumping_clock
from tests.fuzz.writers import KEY, contents, pictures, toy, training

Act = Callable[[Path], "int | None"]


def _picture_between_two(folder: Path) -> None:
    """A picture is removed after it was listed: its item fails, the others are captioned."""
    from regard.captioner import Failure

    pictures(folder, 6)
    model = toy()
    found: list[Any] = []
    files = [str(folder / f"{i}.jpg") for i in range(6)]
    for result in model.caption_many(files, batch_size=1, beam=1, max_length=3):
        found.append(result)
        (folder / "4.jpg").unlink(missing_ok=True)
    assert [isinstance(one, Failure) for one in found] == [i == 4 for i in range(6)], found


def _shard_under_a_reader(folder: Path) -> None:
    """A store's shard is removed while it is open: it stays readable; reopening names it."""
    from regard import DatasetError
    from regard.data.store import AnnotationStore, StoreKey
    from tests.fuzz.writers import encoded

    store = AnnotationStore(folder / "store", StoreKey(*KEY))
    for _ in store.fill([("digest7", "plain", "7")], encoded):
        pass
    shard = next((folder / "store").glob("*.npy"))
    shard.unlink()
    assert (store.read([("digest7", "plain")])[0] == 7).all()
    try:
        AnnotationStore(folder / "store", StoreKey(*KEY))
    except DatasetError as error:
        said = str(error)
    else:
        said = "nothing"
    assert shard.name in said, said


def _model_under_a_captioner(folder: Path) -> None:
    """A model's folder is removed after loading: it captions, or reports the missing folder."""
    from regard import CheckpointError, load
    from regard.pretrained import find_model

    for name, backend in (("light", "onnx"), ("torch", "torch")):
        place = folder / name
        if backend == "onnx":
            shutil.copytree(find_model(None, "volume"), place)
        else:
            toy().save(place)
        model = load(str(place), backend=backend)
        shutil.rmtree(place)
        item = np.arange(8**3, dtype=np.float32).reshape(8, 8, 8)
        with suppress(CheckpointError):
            model.caption(item if backend == "onnx" else np.zeros((9, 9, 3), np.uint8), beam=1)


def _model_before_it_is_named(folder: Path) -> int:
    """A model that does not exist: a usage error in one line."""
    pictures(folder, 1)
    status = command("caption", str(folder / "0.jpg"), "--model", str(folder / "gone"))
    assert status == 2, status
    return status


class _RemovingReporter(Silent):
    """Reporter that removes a file once training has started."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def progress(self, *_: Any, **__: Any) -> None:
        if self._place.is_dir():
            shutil.rmtree(self._place)
        else:
            self._place.unlink(missing_ok=True)


def _removed_while_training(what: str, *settings: str) -> Act:
    def act(folder: Path) -> None:
        from regard.training import train

        pictures(folder / "pictures")
        recipe = training(folder / "pictures", "training.epochs=2", *settings)
        train(recipe, folder / "run", report=_RemovingReporter(folder / what))

    return act


def _picture_named_and_gone(folder: Path) -> int:
    """Captions name a missing picture: training reports it before it starts."""
    from regard.training import train

    pictures(folder / "pictures")
    (folder / "pictures" / "2.jpg").unlink()
    train(training(folder / "pictures"), folder / "run")
    raise AssertionError("the missing picture was not reported")


def _half_of_a_library(folder: Path) -> None:
    """The cache of compiled loops holds a truncated library, and one of another platform."""
    import os

    from regard.native import cpp_library

    os.environ["XDG_CACHE_HOME"] = str(folder)
    whole = cpp_library._built("float32")  # pyright: ignore[reportPrivateUsage]
    size = whole.stat().st_size
    for content in (whole.read_bytes()[: size // 2], b"no library", b""):
        whole.unlink()  # this process has mapped it
        whole.write_bytes(content)
        cpp_library._loaded.cache_clear()  # pyright: ignore[reportPrivateUsage]
        cpp_library.library("float32")


def _answers_nobody_reads(folder: Path) -> int:
    """Standard output is on a full disk."""
    import os

    pictures(folder, 2)
    toy().save(folder / "model")
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    files = [str(folder / f"{i}.jpg") for i in range(2)]
    status = command("caption", *files, "--model", str(folder / "model"), "--max-length", "3")
    assert status == 2, status
    return status


MISSING: dict[str, Act] = {
    "a picture gone while others are captioned": _picture_between_two,
    "a shard gone under its reader": _shard_under_a_reader,
    "a model gone after it was loaded": _model_under_a_captioner,
    "a model gone before it is named": _model_before_it_is_named,
    "a picture gone before a training": _picture_named_and_gone,
    "the pictures gone while a store trains": _removed_while_training("pictures"),
    "the pictures gone while an encoder trains": _removed_while_training(
        "pictures", "encoder.trainable=true"
    ),
    "the store gone in a training": _removed_while_training("run/annotations"),
    "the last checkpoint gone in a training": _removed_while_training("run/last"),
    "the run's folder gone in a training": _removed_while_training("run"),
    "half a library in the cache": _half_of_a_library,
    "standard output on a full disk": _answers_nobody_reads,
}
"""Each must return or raise a `RegardError`."""


def clock_trials(scale: float, seed: int) -> Iterator[tuple[str, Act]]:
    """Return trials of clocks that jump: a training, captions, a store."""
    yield "a jumping clock while a store is filled and read", _store_by_clock(seed)
    if scale < 0.1:
        return
    for number in range(max(1, round(2 * scale))):
        yield f"a jumping clock in a training {number}", _training_by_clock(seed + number)
    yield "a jumping clock while captions are written", _captions_by_clock(seed)


def _store_by_clock(seed: int) -> Act:
    def act(folder: Path) -> None:
        from tests.fuzz.writers import fill

        with jumping_clock(seed):
            for count in (1, 3, 9):
                fill(folder / "jumped", count)
        for count in (1, 3, 9):
            fill(folder / "still", count)
        assert contents(folder / "jumped") == contents(folder / "still")

    return act


def _training_by_clock(seed: int) -> Act:
    def act(folder: Path) -> None:
        from regard.training import train

        pictures(folder / "pictures")
        recipe = training(folder / "pictures", "training.epochs=2", f"training.seed={seed}")
        with jumping_clock(seed):
            jumped = train(recipe, folder / "jumped")
        still = train(recipe, folder / "still")
        one, other = (
            hashlib.sha256((best / "model.safetensors").read_bytes()).hexdigest()
            for best in (jumped, still)
        )
        assert one == other, "the clock changed what was learned"

    return act


def _captions_by_clock(seed: int) -> Act:
    def act(folder: Path) -> None:
        pictures(folder, 4)
        model = toy()
        files = [str(folder / f"{i}.jpg") for i in range(4)]
        with jumping_clock(seed):
            jumped = model.caption(files, beam=2)
        for one, other in zip(jumped, model.caption(files, beam=2), strict=True):
            assert one.to_json() | {"seconds": 0} == other.to_json() | {"seconds": 0}
            assert 0 <= one.seconds < 60, one.seconds

    return act
