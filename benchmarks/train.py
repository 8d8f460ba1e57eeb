"""`python -m benchmarks train`: the training step, as `regard.training.loop` makes it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks.measure import SQUARE, GemmPeak, Report, best_seconds, take_turns
from benchmarks.memory import peaks_of
from benchmarks.plain import Plain
from benchmarks.textbook import Textbook, draw_kept
from benchmarks.workload import Sizes, Stored, build_decoder, make_batch, step_operations
from regard.config import ObjectiveConfig, OptimizerConfig
from regard.model.decoder import AttentionDecoder
from regard.training.objectives.base import Batch
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.state import build_optimizer

_BATCHES = 8
_MEMORY_STEPS = 4
Step = Callable[[Batch], float]


@dataclass(frozen=True)
class TrainWork:
    """The work to train.

    Attributes:
        sizes: sizes of the decoder.
        batch: captions per step.
        captions_per_image: that share a projection.
        precision: "fp32" or "bf16"; the other implementations run in the same.
        seed: seed of weights, captions and dropout.
    """

    sizes: Sizes = field(default_factory=Sizes)
    batch: int = 64
    captions_per_image: int = 1
    precision: str = "fp32"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {n: getattr(self, n) for n in ("batch", "captions_per_image", "precision", "seed")}
        return plain | {"sizes": self.sizes.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> TrainWork:
        """Create the work from the values of `to_json`."""
        rest = {name: value for name, value in record.items() if name != "sizes"}
        return cls(sizes=Sizes(**record["sizes"]), **rest)


def measure_training(
    work: TrainWork,
    *,
    against: tuple[str, ...] = ("textbook", "plain"),
    rounds: int = 8,
    seconds: float = 60.0,
    memory: bool = True,
    square: int = SQUARE,
) -> Report:
    """Time training steps: forward, loss with penalty, dropout, backward, clip, Adam.

    Args:
        work: the work to train.
        against: implementations that alternate with regard's own.
        rounds: steps of each.
        seconds: time after which no further round starts.
        memory: whether to measure memory, in a process for each.
        square: size of the reference matrix product.
    """
    batches = [_batch(work, number) for number in range(_BATCHES)]
    steps = {name: make_step(name, work) for name in ("regard", *against)}
    peak = GemmPeak(square)
    turns: dict[str, Callable[[int], object]] = {
        name: (lambda number, step=step: step(batches[number % len(batches)]))
        for name, step in steps.items()
    }
    timed = take_turns(turns | {"gemm": peak}, rounds=rounds, seconds=seconds)
    useful = [_operations(batch, work) for batch in batches]
    rates = {
        name: [useful[i % len(useful)] / s for i, s in enumerate(timed.seconds[name])]
        for name in steps
    }
    ceiling = _ceiling(batches[0], work)
    ratios = {name: timed.ratio(name, "regard") for name in against}
    threads, record = torch.get_num_threads(), work.to_json()
    taken = peaks_of(__name__, "run_steps", steps if memory else (), record, threads)
    of_step = timed.median("regard")
    shares = [rate / peak.rate for rate in rates["regard"]]
    return Report(
        "train",
        captions_per_s=work.batch / of_step,
        share_of_gemm_peak=statistics.median(shares),
        peak_rss_mb=taken.get("regard"),
        ratio_to_textbook=ratios.get("textbook"),
        ratio_to_plain=ratios.get("plain"),
        seconds=of_step,
        settings=record | {"threads": threads, "unit": "step"},
        details={
            "share_spread": [min(shares), max(shares)],
            "seconds_spread": timed.spread("regard"),
            "rounds": len(timed.seconds["regard"]),
            "gemm_gflops": peak.rate / 1e9,
            "ceiling_share": useful[0] / ceiling / peak.rate,
            "gflop_per_caption": useful[0] / work.batch / 1e9,
            **{f"{n}_captions_per_s": work.batch / timed.median(n) for n in against},
            **{f"{n}_share_of_gemm_peak": statistics.median(rates[n]) / peak.rate for n in against},
            **{f"{n}_peak_rss_mb": mb for n, mb in taken.items() if n != "regard"},
        },
    )


def make_step(name: str, work: TrainWork) -> Step:
    """Return a function that makes one training step and returns its loss.

    Args:
        name: "regard", "textbook" or "plain".
        work: the work to train; every implementation starts with the same weights.
    """
    decoder = build_decoder(work.sizes, seed=work.seed).train()
    optimizer = build_optimizer(OptimizerConfig(), decoder, Stored())
    generator = torch.Generator().manual_seed(work.seed)
    limit = OptimizerConfig().clip_norm
    loss_of = _losses(decoder, work, generator)[name]

    def step(batch: Batch) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=work.precision == "bf16"):
            loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), limit)
        optimizer.step()
        return loss.item()

    return step


def _losses(
    decoder: AttentionDecoder, work: TrainWork, generator: torch.Generator
) -> dict[str, Callable[[Batch], torch.Tensor]]:
    config = ObjectiveConfig()
    objective = CrossEntropy(config)
    textbook, plain = Textbook(decoder), Plain(decoder)

    def regard(batch: Batch) -> torch.Tensor:
        projected = decoder.project(batch.vectors, batch.mask)
        return objective.loss(decoder, projected, batch, generator).total

    def by_the_book(batch: Batch) -> torch.Tensor:
        kept = draw_kept(decoder.config, len(batch.mask), batch.tokens, torch.float32, generator)
        return textbook.cross_entropy(batch, config, kept)

    return {
        "regard": regard,
        "textbook": by_the_book,
        "plain": lambda batch: plain.loss(batch, config, generator),
    }


def run_steps(name: str, work: dict[str, Any]) -> None:
    """Make a few steps, in a process whose memory is measured."""
    made = TrainWork.from_json(work)
    step = make_step(name, made)
    for number in range(_MEMORY_STEPS):
        step(_batch(made, number))


def _batch(work: TrainWork, number: int) -> Batch:
    items = work.batch // work.captions_per_image
    return make_batch(items, work.captions_per_image, work.sizes, seed=work.seed + number)


def _operations(batch: Batch, work: TrainWork) -> float:
    return step_operations(work.sizes, int(batch.steps.sum()), len(batch.tokens), len(batch.mask))


def _ceiling(batch: Batch, work: TrainWork) -> float:
    """Return the seconds of the step's matrix products alone, each shape at its best.

    What reads whole captions runs over all their words at once; what feeds back (query, gate,
    recurrent weights) runs step by step over the captions that still have a word. Backward:
    weights' gradients over all words at once, the states' step by step.
    """
    s = work.sizes
    d, e, h, a, v = s.annotation_dim, s.embedding_dim, s.hidden_dim, s.attention_dim, s.vocabulary
    words, live = int(batch.steps.sum()), batch.steps.sum(0).tolist()
    pictures = len(batch.mask)
    gate = {"none": 0, "scalar": 1, "feature": d}[s.gate]
    shapes = [(pictures * s.cells, d, a, 1), (d, pictures * s.cells, a, 1)]
    shapes += [(pictures, d, h, 2), (d, pictures, h, 2)]
    for inside, outside in ((e, 4 * h), (h, e), (d, e), (e, v)):
        shapes += [(words, inside, outside, 1), (words, outside, inside, 1),
                   (inside, words, outside, 1)]  # fmt: skip
    for inside, outside in ((h, a), (d + h, 4 * h), *([(h, gate)] if gate else [])):
        shapes += [(inside, words, outside, 1)]
        for n in live:
            shapes += [(n, inside, outside, 1), (n, outside, inside, 1)]
    return best_seconds(shapes)
