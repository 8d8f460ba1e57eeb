"""`python -m benchmarks decode`: annotations to captions."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import SQUARE, GemmPeak, Report, take_turns
from benchmarks.memory import peaks_of
from benchmarks.plain import Plain
from benchmarks.textbook import Textbook
from benchmarks.textbook_beam import search
from benchmarks.workload import (
    LONGEST,
    Sizes,
    add_clock,
    build_decoder,
    caption_lengths,
    decode_operations,
    draw_vectors,
    set_lengths,
)
from regard.backends.torch_backend import TorchBackend
from regard.decoding import DecodingOptions, decode
from regard.text.vocabulary import END, PAD, START, UNKNOWN
from regard.types import Annotations
from regard.util.parallel import ordered_map

_NEVER_SAID = (PAD, START, UNKNOWN)
_PLAIN_BATCH = 16
_TEXTBOOK_PICTURES = 4  # of the round, one at a time: it is slow


@dataclass(frozen=True)
class DecodeWork:
    """The work to decode.

    Attributes:
        sizes: sizes of the decoder.
        pictures: decoded in a round.
        batch: pictures decoded together.
        beam: 1 is greedy.
        alternatives: strongest words kept per word, as captions do.
        seed: seed of weights, vectors and lengths.
    """

    sizes: Sizes = field(default_factory=Sizes)
    pictures: int = 256
    batch: int = 64
    beam: int = 3
    alternatives: int = 5
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("pictures", "batch", "beam", "alternatives", "seed")
        return {n: getattr(self, n) for n in names} | {"sizes": self.sizes.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> DecodeWork:
        """Create the work from the values of `to_json`."""
        rest = {name: value for name, value in record.items() if name != "sizes"}
        return cls(sizes=Sizes(**record["sizes"]), **rest)


def measure_decoding(
    work: DecodeWork,
    *,
    against: tuple[str, ...] = ("textbook", "plain"),
    rounds: int = 5,
    seconds: float = 60.0,
    memory: bool = True,
    square: int = SQUARE,
) -> Report:
    """Time decoding with traces and alternatives; every caption has a given length.

    Lengths are those of `caption_lengths`, forced by a clock in the weights (`add_clock`), so
    that every implementation writes as many words. Plain PyTorch takes 16 pictures at a time,
    the textbook loop one.

    Args:
        work: the work to decode.
        against: implementations that alternate with regard's own.
        rounds: rounds of each.
        seconds: time after which no further round starts.
        memory: whether to measure memory, in a process for each.
        square: size of the reference matrix product.
    """
    runs = {name: make_run(name, work) for name in ("regard", *against)}
    peak = GemmPeak(square)
    turns: dict[str, Callable[[int], object]] = {
        name: (lambda _, run=run: run()) for name, (run, _) in runs.items()
    }
    timed = take_turns(turns | {"gemm": peak}, rounds=rounds, seconds=seconds)
    speeds = {n: [count / s for s in timed.seconds[n]] for n, (_, count) in runs.items()}
    lengths = _lengths(work)
    # By words read: the few pictures of the textbook's may have shorter captions than all.
    words = {name: int((lengths[:pictures] + 1).sum()) for name, (_, pictures) in runs.items()}
    ratios = {name: timed.ratio(name, "regard") * words["regard"] / words[name] for name in against}
    threads, record = torch.get_num_threads(), work.to_json()
    taken = peaks_of(__name__, "run_once", runs if memory else (), record, threads)
    # The first word is read by one row, from which the beam is made.
    read = int((lengths * work.beam + 1).sum())
    rate = decode_operations(work.sizes, read, work.pictures) / timed.median("regard")
    return Report(
        "decode",
        captions_per_s=statistics.median(speeds["regard"]),
        share_of_gemm_peak=rate / peak.rate,
        peak_rss_mb=taken.get("regard"),
        ratio_to_textbook=ratios.get("textbook"),
        ratio_to_plain=ratios.get("plain"),
        seconds=timed.median("regard") / work.pictures,
        settings=record | {"threads": threads, "unit": "picture"},
        details={
            "captions_per_s_spread": [min(speeds["regard"]), max(speeds["regard"])],
            "rounds": len(speeds["regard"]),
            "gemm_gflops": peak.rate / 1e9,
            "mean_words": float(lengths.mean()),
            **{f"{n}_captions_per_s": statistics.median(speeds[n]) for n in against},
            **{f"{n}_peak_rss_mb": mb for n, mb in taken.items() if n != "regard"},
        },
    )


def make_run(name: str, work: DecodeWork) -> tuple[Callable[[], list[tuple[int, ...]]], int]:
    """Return a function that decodes, and how many pictures it decodes.

    Args:
        name: "regard", "textbook" or "plain".
        work: the work to decode; every implementation has the same weights and vectors.
    """
    decoder = build_decoder(work.sizes, seed=work.seed).eval()
    add_clock(decoder)
    vectors = set_lengths(draw_vectors(work.pictures, work.sizes, work.seed), _lengths(work))
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    if name == "textbook":
        textbook = Textbook(decoder)
        count = min(_TEXTBOOK_PICTURES, work.pictures)
        return lambda: [_by_the_book(textbook, vectors[n], work) for n in range(count)], count
    if name == "plain":
        plain = Plain(decoder)
        return lambda: _plainly(plain, vectors, mask, work), work.pictures
    backend = TorchBackend(None, decoder)
    greedy = work.beam == 1
    options = DecodingOptions(
        method="greedy" if greedy else "beam",
        beam=work.beam,
        max_length=LONGEST,
        alternatives=work.alternatives,
    )

    def some(pictures: list[int]) -> list[tuple[int, ...]]:
        part = slice(pictures[0], pictures[-1] + 1)
        found = decode(
            backend,
            Annotations(vectors[part], mask[part], ()),
            options,
            start=START,
            end=END,
            forbidden=_NEVER_SAID,
            unlisted=(PAD, START),
        )
        return [best[0].tokens for best in found]

    def run() -> list[tuple[int, ...]]:
        every, threads = iter(range(work.pictures)), torch.get_num_threads()
        if threads > 1 and work.pictures > work.batch:  # as `Captioner` does with many pictures
            batches = iter(lambda: list(islice(every, work.batch)), [])
            found = ordered_map(some, batches, threads=threads, start=TorchBackend.use_one_core)
            return [tokens for batch in found for tokens in batch]
        return [c for first in every for c in some([first, *islice(every, work.batch - 1)])]

    return run, work.pictures


def run_once(name: str, work: dict[str, Any]) -> None:
    """Decode once, in a process whose memory is measured."""
    made = DecodeWork.from_json(work)
    make_run(name, made)[0]()


def _lengths(work: DecodeWork) -> np.ndarray:
    return caption_lengths(work.pictures, np.random.default_rng(work.seed))


def _by_the_book(textbook: Textbook, vectors: Tensor, work: DecodeWork) -> tuple[int, ...]:
    mask = torch.ones(len(vectors), dtype=torch.bool)
    found = search(
        textbook, vectors, mask, width=work.beam, max_length=LONGEST, start=START, end=END,
        forbidden=_NEVER_SAID,
    )  # fmt: skip
    return found[0].words


def _plainly(
    plain: Plain, vectors: Tensor, mask: Tensor, work: DecodeWork
) -> list[tuple[int, ...]]:
    captions: list[tuple[int, ...]] = []
    for first in range(0, len(vectors), _PLAIN_BATCH):
        some = slice(first, first + _PLAIN_BATCH)
        found = plain.beam(
            vectors[some], mask[some], width=work.beam, max_length=LONGEST, start=START, end=END,
            forbidden=_NEVER_SAID,
        )  # fmt: skip
        captions += [words for words, _ in found]
    return captions
