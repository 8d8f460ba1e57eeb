"""The annotation store: what is encoded once is found again, and nothing else."""

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from regard.data import AnnotationStore, StoreKey
from regard.errors import DatasetError

KEY = StoreKey("digest", (2, 2), 3)
WANTED = [(f"d{i}", view, f"{i}.jpg") for i in range(5) for view in ("plain", "flip")]


class Encoder:
    """Makes vectors that tell which picture and view they are of."""

    def __init__(self) -> None:
        self.pictures = 0

    def __call__(self, batch: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        self.pictures += len(batch)
        values = [int(file[0]) + (0.5 if view == "flip" else 0) for file, view in batch]
        vectors = np.array([np.full((4, 3), value) for value in values])
        # The picture 2 is a clip that fills only three of four cells.
        return vectors, np.arange(4) < np.array([3 if v // 1 == 2 else 4 for v in values])[:, None]


def test_what_is_there_is_not_encoded_again(tmp_path: Path) -> None:
    encode = Encoder()
    assert list(AnnotationStore(tmp_path, KEY).fill(WANTED[:4], encode, 4))[-1] == 4
    assert list(AnnotationStore(tmp_path, KEY).fill(WANTED, encode, 4))[-1] == 10
    store = AnnotationStore(tmp_path, KEY)
    assert list(store.fill(WANTED, encode, 4)) == []
    assert encode.pictures == 10
    vectors, mask = store.read([("d3", "flip"), ("d0", "plain")])
    assert vectors[:, 0, 0].tolist() == [3.5, 0.0]
    assert vectors.dtype == np.float16
    assert mask.all()
    assert store.read([("d2", "flip")])[1].tolist() == [[True, True, True, False]]
    with pytest.raises(DatasetError, match="d9"):
        store.read([("d9", "plain")])


def test_two_runs_that_fill_one_store_do_not_replace_each_other(tmp_path: Path) -> None:
    one, other = AnnotationStore(tmp_path, KEY), AnnotationStore(tmp_path, KEY)
    list(one.fill(WANTED[:6], Encoder()))
    list(other.fill(WANTED[4:], Encoder()))
    store = AnnotationStore(tmp_path, KEY)
    assert len(store) == 10
    found = store.read([(digest, view) for digest, view, _ in WANTED])[0][:, 0, 0].tolist()
    assert found == [i / 2 for i in range(10)]


def report_until(last: int, filled: Generator[int]) -> None:
    """Read as `Pictures` does, with a report that fails."""
    with closing(filled):
        for done in filled:
            1 / (last - done)


@pytest.mark.parametrize("stopped_by", ["encoder", "caller", "report"])
def test_a_stopped_encoding_keeps_what_is_encoded(stopped_by: str, tmp_path: Path) -> None:
    encode = Encoder()

    def stopping(batch: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        if encode.pictures == 6 and stopped_by == "encoder":
            raise KeyboardInterrupt
        return encode(batch)

    filled = AnnotationStore(tmp_path, KEY).fill(WANTED, stopping, 2)
    if stopped_by == "encoder":
        with pytest.raises(KeyboardInterrupt):
            list(filled)
    elif stopped_by == "caller":
        assert [next(filled) for _ in range(3)] == [2, 4, 6]
        filled.close()
    else:
        with pytest.raises(ZeroDivisionError):
            report_until(6, filled)
    store = AnnotationStore(tmp_path, KEY)
    assert len(store) == 6
    assert list(store.fill(WANTED, encode, 2)) == [8, 10]
    assert encode.pictures == 10  # none of them twice
    found = AnnotationStore(tmp_path, KEY).read([(d, v) for d, v, _ in WANTED])
    assert found[0][:, 0, 0].tolist() == [i / 2 for i in range(10)]
    assert found[1].all(1).tolist() == [i not in (4, 5) for i in range(10)]


def test_a_shard_that_takes_long_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill loses little; the longer an encoding takes, the larger its shards."""
    clock = [0.0]
    monkeypatch.setattr("regard.data.store.time.monotonic", lambda: clock[0])
    filled = AnnotationStore(tmp_path, KEY).fill(WANTED, Encoder(), 2)
    kept: list[int] = []
    for clock[0] in (0.0, 10.0, 31.0, 5000.0, 5031.0):
        next(filled)
        kept.append(len(AnnotationStore(tmp_path, KEY)))
    assert kept == [0, 0, 4, 6, 6]
    assert list(filled) == []
    found = AnnotationStore(tmp_path, KEY).read([(d, v) for d, v, _ in WANTED])[0][:, 0, 0]
    assert found.tolist() == [i / 2 for i in range(10)]


@pytest.mark.parametrize(
    "other", [StoreKey("other", (2, 2), 3), StoreKey("digest", (4, 1), 3)], ids=["encoder", "grid"]
)
def test_a_store_of_another_encoder_is_refused(tmp_path: Path, other: StoreKey) -> None:
    AnnotationStore(tmp_path, KEY)
    with pytest.raises(DatasetError, match="another"):
        AnnotationStore(tmp_path, other)


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    list(AnnotationStore(tmp_path, KEY).fill(WANTED, Encoder()))
    shard = next(tmp_path.glob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"damaged.*Delete it"):
        AnnotationStore(tmp_path, KEY)


def test_a_shard_of_large_rows_has_fewer_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regard.data.store._SHARD_BYTES", 3 * 2 * 4 * 3)  # three rows
    store = AnnotationStore(tmp_path, KEY)
    assert list(store.fill(WANTED, Encoder()))[-1] == 10
    assert len(list(tmp_path.glob("*.npy"))) == 4
    found = AnnotationStore(tmp_path, KEY).read([(d, v) for d, v, _ in WANTED])[0][:, 0, 0]
    assert found.tolist() == [i / 2 for i in range(10)]


def small_store(folder: Path) -> AnnotationStore:
    store = AnnotationStore(folder, StoreKey("e", (3,), 2))
    real = np.array([[True, True, False]])
    for _ in store.fill(
        [("digest", "plain", "file")], lambda pairs: (np.ones((1, 3, 2), np.float16), real)
    ):
        pass
    return store


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("store.json", b"[]"),
        ("store.json", b"null"),
        ("store.json", b'{"a":' * 100_000),
        ("store.json", b"\xff"),
        ("shard-*.json", b"[" * 100_000),
        ("shard-*.json", b"3"),
        ("shard-*.json", b'[["digest", "plain", "zz"]]'),
        ("shard-*.json", b'[["digest", "plain", "c0c0"]]'),
        ("shard-*.json", b'[["digest", {}]]'),
        ("shard-*.json", b'[["digest"]]'),
        ("shard-*.npy", b"\x93NUMPY\x01\x00v\x00{'descr': ('"),
        ("shard-*.npy", b"PK\x03\x04"),
        ("shard-*.npy", b""),
    ],
)
def test_a_damaged_file_of_a_store_is_named(file: str, content: bytes, tmp_path: Path) -> None:
    small_store(tmp_path)
    next(tmp_path.glob(file)).write_bytes(content)
    with pytest.raises(DatasetError, match="damaged"):
        AnnotationStore(tmp_path, StoreKey("e", (3,), 2))


def test_a_pipe_for_a_shard_is_not_waited_for(tmp_path: Path) -> None:
    small_store(tmp_path)
    shard = next(tmp_path.glob("shard-*.npy"))
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(DatasetError, match="damaged"):
        AnnotationStore(tmp_path, StoreKey("e", (3,), 2))


def test_a_full_disk_leaves_what_a_store_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small_store(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetError, match=r"No space left.*data\.store"):
        for _ in store.fill(
            [("other", "plain", "file")],
            lambda pairs: (np.ones((1, 3, 2), np.float16), np.ones((1, 3), bool)),
        ):
            pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DatasetError, match="cannot be written"):
        AnnotationStore(tmp_path / "file" / "store", StoreKey("e", (3,), 2))


def test_a_file_that_another_process_renames_meanwhile_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ranks that begin a store together do."""
    folder = tmp_path / "store"
    AnnotationStore(folder, KEY)
    real = Path.glob

    def seen(self: Path, pattern: str) -> Iterator[Path]:
        return iter([folder / ".new-gone"]) if pattern == ".new-*" else real(self, pattern)

    monkeypatch.setattr(Path, "glob", seen)
    AnnotationStore(folder, KEY)
