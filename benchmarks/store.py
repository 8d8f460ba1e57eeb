"""`python -m benchmarks store`: stored annotations, and how long training waits for them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Report, take_turns
from benchmarks.train import TrainWork, make_step
from benchmarks.workload import Sizes, make_batch
from regard.data.store import AnnotationStore, StoreKey
from regard.training.objectives.base import Batch

_STEPS = 3


def measure_store(
    *, sizes: Sizes | None = None, rows: int = 2000, batch: int = 64, rounds: int = 50,
    seconds: float = 60.0,
) -> Report:  # fmt: skip
    """Read random rows of a warm store, batch by batch, and train on them.

    Args:
        sizes: sizes of the decoder; a row holds cells × annotation_dim float16 numbers.
        rows: rows of the store.
        batch: rows per read, captions per training step.
        rounds: reads that are timed.
        seconds: time after which no further round starts.
    """
    sizes = sizes or Sizes()
    with TemporaryDirectory(prefix="regard-bench-") as folder:
        store, names = _fill(Path(folder), sizes, rows)
        generator = np.random.default_rng(1)
        wanted = [[names[i] for i in generator.integers(0, rows, batch)] for _ in range(rounds)]
        step = make_step("regard", TrainWork(sizes=sizes, batch=batch))
        captions = make_batch(batch, 1, sizes)
        read: dict[str, Any] = {}

        def fetch(number: int) -> None:
            vectors, mask = store.read(wanted[number % rounds])
            read["batch"] = (torch.from_numpy(vectors).float(), torch.from_numpy(mask))

        def train(_: int) -> None:
            vectors, mask = read["batch"]
            step(Batch(vectors, mask, captions.tokens, captions.targets, captions.steps, ()))

        timed = take_turns(
            {"rows": lambda number: store.read(wanted[number % rounds]), "batch": fetch},
            rounds=rounds,
            seconds=seconds,
        )
        steps = take_turns({"step": train}, rounds=_STEPS)
    of_batch = timed.median("batch")
    return Report(
        "store",
        seconds=timed.median("rows"),
        settings={"sizes": sizes.to_json(), "rows": rows, "batch": batch,
                  "threads": torch.get_num_threads(), "unit": f"{batch} rows"},
        details={
            "rows_per_s": batch / timed.median("rows"),
            "rows_per_s_spread": [batch / s for s in reversed(timed.spread("rows"))],
            "row_bytes": 2 * sizes.cells * sizes.annotation_dim,
            "waiting_share": of_batch / (of_batch + steps.median("step")),
            "rounds": len(timed.seconds["rows"]),
        },
    )  # fmt: skip


def _fill(folder: Path, sizes: Sizes, rows: int) -> tuple[AnnotationStore, list[tuple[str, str]]]:
    key = StoreKey("benchmark", (sizes.cells,), sizes.annotation_dim)
    store = AnnotationStore(folder, key)
    generator = np.random.default_rng(0)
    names = [(f"{i:064x}", "plain") for i in range(rows)]

    def vectors(files: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(files), sizes.cells, sizes.annotation_dim)
        return generator.random(shape, np.float32), np.ones(shape[:2], bool)

    for _ in store.fill([(digest, view, digest) for digest, view in names], vectors):
        pass
    return store, names
