"""Forged models and damaged stores: refused before memory is taken, and never a dead process."""

from __future__ import annotations

import json
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from regard import Captioner
from regard.checkpoint.build import build_modules
from regard.checkpoint.components import recipe_of
from regard.checkpoint.folder import load_checkpoint
from regard.data.check import check_dataset
from regard.data.store import AnnotationStore, StoreKey
from regard.errors import CheckpointError, DatasetError, RegardError
from tests.helpers import toy_models

_MEMORY = 2**26
_KEY = StoreKey("e", (3,), 2)


def _error_of(act: Callable[[], object], kind: type[RegardError]) -> str:
    """Return the message of the error that an act must raise, in little memory."""
    tracemalloc.start()
    try:
        act()
    except kind as error:
        assert tracemalloc.get_traced_memory()[1] < _MEMORY
        return str(error)
    finally:
        tracemalloc.stop()
    raise AssertionError("it should have been refused")


def sizes_that_weights_do_not_have(folder: Path) -> None:
    """Sizes of every network are compared with the header of the weights, on no device."""
    import torch

    toy_models.captioner().save(folder / "model")
    Captioner.load(folder / "model", backend="torch")  # its imports take memory, too
    path = folder / "model" / "config.json"
    whole = json.loads(path.read_text())
    for section, key, value in (
        ("decoder", "hidden_dim", 65536), ("decoder", "embedding_dim", 60000),
        ("decoder", "attention_dim", 65536), ("decoder", "feature_dim", 65536),
        ("decoder", "concepts", 65536), ("encoder", "level", "stride16"),
    ):  # fmt: skip
        config = json.loads(json.dumps(whole))
        config["recipe"][section][key] = value
        path.write_text(json.dumps(config))
        checkpoint = load_checkpoint(folder / "model")
        real = torch.empty(0).device  # the default device is as before
        said = _error_of(lambda c=checkpoint: build_modules(c, recipe_of(c)), CheckpointError)
        assert "do not fit" in said or "sizes" in said, said
        assert torch.empty(0).device == real
    path.write_text(json.dumps(whole))
    Captioner.load(folder / "model", backend="torch")


def states_that_inflate(folder: Path) -> None:
    """A training state whose entries are compressed, of which torch would make gigabytes."""
    toy_models.captioner().save(folder / "model")
    with zipfile.ZipFile(folder / "model" / "training.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data/0", bytes(2**24))
    act = lambda: load_checkpoint(folder / "model", training=True)  # noqa: E731
    assert "compressed" in _error_of(act, CheckpointError)


@contextmanager
def _store(folder: Path, rows: int = 3) -> Generator[AnnotationStore]:
    store = AnnotationStore(folder, _KEY)
    list(store.fill(_pairs(rows), _vectors))
    yield store
    shutil.rmtree(folder)


def _pairs(rows: int) -> list[tuple[str, str, str]]:
    return [(f"d{number}", "plain", str(number)) for number in range(rows)]


def _vectors(batch: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([int(file) + 0.5 for file, _ in batch], np.float32)
    return np.tile(values[:, None, None], (1, 3, 2)), np.ones((len(batch), 3), bool)


def _use(folder: Path) -> None:
    store = AnnotationStore(folder, _KEY)
    store.read([pair[:2] for pair in _pairs(3)])


def bits_that_flip_in_a_store(folder: Path) -> None:
    """Each of 100 flipped bits of vectors and lists is found by reading, and by the check."""
    rng = random.Random(0)
    with _store(folder / "store"):
        (vectors,) = (folder / "store").glob("*.npy")
        for path in (vectors, vectors.with_suffix(".json")):
            whole = path.read_bytes()
            first = len(whole) - 36 if path is vectors else 0
            for _ in range(100):
                content = bytearray(whole)
                content[rng.randrange(first, len(whole))] ^= 1 << rng.randrange(8)
                path.write_bytes(content)
                assert "damaged" in _error_of(lambda: _use(folder / "store"), DatasetError)
                with suppress(DatasetError):  # it cannot even be opened
                    assert check_dataset(folder / "store").errors
            path.write_bytes(whole)
        assert not check_dataset(folder / "store").errors


def vectors_that_are_not_finite(folder: Path) -> None:
    """Refused where they are made, where they overflow float16, and in older stores."""
    for bad in (np.nan, np.inf, -np.inf, 1e6):

        def encode(batch: list[tuple[str, str]], bad: float = bad) -> tuple[Any, Any]:
            vectors, mask = _vectors(batch)
            vectors[-1, 1, 1] = bad
            return vectors, mask

        store = AnnotationStore(folder / "store", _KEY)
        act = lambda s=store, e=encode: list(s.fill(_pairs(3), e))  # noqa: E731
        assert "not finite" in _error_of(act, DatasetError)
        assert not len(AnnotationStore(folder / "store", _KEY))
    with _store(folder / "store"):
        (path,) = (folder / "store").glob("*.npy")
        old = json.dumps([list(pair[:2]) for pair in _pairs(3)])
        from regard.data.store import _name_of  # pyright: ignore[reportPrivateUsage]

        path.with_suffix(".json").unlink()
        path = path.rename(path.with_stem(_name_of(old)))
        path.with_suffix(".json").write_text(old)
        _use(folder / "store")  # of an older version, without digests of rows
        vectors = np.load(path)
        vectors[1, 0, 0] = np.nan
        np.save(path, vectors)
        assert "NaN" in _error_of(lambda: _use(folder / "store"), DatasetError)


def stores_that_are_cut_while_open(folder: Path) -> None:
    """Cut short, emptied, removed, replaced by a folder: an error, where a map would kill."""
    for change in (
        lambda p: p.write_bytes(p.read_bytes()[:-20]), lambda p: p.write_bytes(b""), Path.unlink,
        lambda p: (p.unlink(), p.mkdir()),
    ):  # fmt: skip
        with _store(folder / "store") as store:
            (path,) = (folder / "store").glob("*.npy")
            change(path)
            act = lambda s=store: s.read([("d2", "plain")])  # noqa: E731
            assert "damaged" in _error_of(act, DatasetError)


CASES = [
    sizes_that_weights_do_not_have,
    states_that_inflate,
    bits_that_flip_in_a_store,
    vectors_that_are_not_finite,
    stores_that_are_cut_while_open,
]
