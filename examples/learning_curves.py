"""Draws how runs learned: a score of val captions and the val loss over epochs, from their logs.

    python examples/learning_curves.py runs/soft runs/tuned runs/critical --out curves.png
    python examples/learning_curves.py runs/a runs/b --metric bleu4

A run's folder holds log.jsonl, whose lines of kind "evaluation" have the scores after each epoch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def evaluations(run: Path) -> list[dict[str, float]]:
    """Return the scores after each epoch, in order; epoch 0 is before the first step."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [record for record in records if record["kind"] == "evaluation"]


def draw(runs: list[Path], metric: str, out: Path) -> None:
    """Draw the metric above and the loss below, a line for each run."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for run in runs:
        found = evaluations(run)
        epochs = [record["epoch"] for record in found]
        above.plot(epochs, [record[metric] for record in found], marker="o", label=run.name)
        below.plot(epochs, [record["loss"] for record in found], marker="o")
    above.set_ylabel(f"{metric} of greedy val captions, × 100")
    below.set_ylabel("val loss, nats a word")
    below.set_xlabel("epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    above.legend()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--metric", default="cider_d")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    given = parser.parse_args()
    draw(given.runs, given.metric, given.out)


if __name__ == "__main__":
    main()
