"""How fast one GPU trains on COCO's size and searches with a beam, beside what the bytes allow.

    python benchmarks/gpu.py --json gpu.json   # one NVIDIA H100 with 80 GB
    python benchmarks/gpu.py --tiny            # tries the script on the CPU; says nothing of speed

Annotations are random numbers, resident in bfloat16 (22.7 GB); captions have 7 to 20 words, 10.5
on average, the five of a picture in one batch. Products run in bfloat16, weights and sums in
float32. Training is the decoder's own: dropout 0.5, the penalty on attention, clipping, Adam; a
batch is one CUDA graph for each length of captions. Before anything is timed, losses and
gradients of the kernels are held to the plain path's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from gpu_counts import TINY, Sizes
from gpu_data import make
from gpu_runs import BEAM, attention, compare, decode, train
from gpu_timing import machine, peaks


def main() -> None:
    """Print the figures as tables; write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on the CPU")
    parser.add_argument("--batch", type=int, default=1020, help="captions of the large batch")
    parser.add_argument("--rate", type=float, default=1.6e-3, help="Adam's rate with that batch")
    parser.add_argument("--decode-batch", type=int, default=1024, help="pictures searched at once")
    parser.add_argument("--json", type=Path, help="file that the figures are written to")
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        sys.exit("No CUDA device is here; --tiny tries the benchmark on the CPU, in toy sizes.")
    device = torch.device("cpu" if asked.tiny else "cuda")
    sizes = TINY if asked.tiny else Sizes()
    large, small, searched = (40, 20, 8) if asked.tiny else (asked.batch, 64, asked.decode_batch)
    figures: dict[str, Any] = {}

    def add(name: str, found: dict[str, Any]) -> None:
        figures[name] = found
        show(name, found)

    add("machine", machine(device))
    add("peaks", peaks(device, asked.tiny))
    data = make(sizes, device)
    add("kernels against the plain path", compare(sizes, data))
    pictures = large // sizes.captions
    add("one step of attention", attention(sizes, data, pictures, figures["peaks"]))
    for name, batch, rate, epochs in (("large", large, asked.rate, 2), ("small", small, 4e-4, 1)):
        found = train(sizes, data, batch, rate, figures["peaks"], epochs=epochs)
        add(f"training, {name} batch", found)
    add(f"beam {BEAM}", decode(sizes, data, searched, figures["peaks"]))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def show(title: str, figures: dict[str, Any]) -> None:
    """Print some figures as a table of Markdown."""
    print(f"\n| {title} | |\n|---|---|")
    for name, value in figures.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, list):
            value = ", ".join(f"{x:.3f}" for x in value)
        print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
