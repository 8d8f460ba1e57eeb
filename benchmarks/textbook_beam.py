"""Beam search for one picture as a plain loop over captions: the oracle of `regard.decoding`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.textbook import Textbook


@dataclass(frozen=True)
class Beam:
    """One caption of a search; `words` and what follows have T entries.

    Attributes:
        words: ids so far, without the end token.
        total: log-probabilities, summed.
        hidden: (H,) the state after the words.
        memory: (H,).
        logprobs: logprobs of each word.
        alphas: (L,) for each word.
        betas: mean gate for each word; empty without a gate.
        alternatives: strongest words at each step, as (id, log-probability).
        finished: whether it ended.
        score: what it is ranked by, once it has ended or stopped.
    """

    words: tuple[int, ...]
    total: float
    hidden: Tensor
    memory: Tensor
    logprobs: tuple[float, ...] = ()
    alphas: tuple[Tensor, ...] = ()
    betas: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    finished: bool = False
    score: float = -math.inf


@torch.inference_mode()
def search(
    textbook: Textbook,
    vectors: Tensor,
    mask: Tensor,
    *,
    width: int,
    max_length: int,
    start: int,
    end: int,
    forbidden: tuple[int, ...] = (),
    unlisted: tuple[int, ...] = (),
    length_penalty: float = 0.0,
    n_best: int = 1,
    alternatives: int = 0,
) -> list[Beam]:
    """Return the best captions of one picture, finished before unfinished, each best first.

    A caption that ends leaves the beam, which stays as wide as it was; an end that would not
    have stayed in the beam does not count. A width of 1 is greedy decoding.

    Args:
        textbook: the model.
        vectors: (L, D) of the encoder.
        mask: (L,).
        width: captions that are kept.
        max_length: most words.
        start: id read first.
        end: id that ends a caption.
        forbidden: ids that are never said.
        unlisted: ids that are not listed as alternatives.
        length_penalty: totals are divided by the tokens' number to this power.
        n_best: captions returned.
        alternatives: strongest words noted at each step.
    """

    def scored(beam: Beam, tokens: int, *, finished: bool) -> Beam:
        return replace(beam, finished=finished, score=beam.total / tokens**length_penalty)

    hidden, memory = textbook.start(vectors[None], mask[None])
    live = [Beam((), 0.0, hidden[0], memory[0])]
    found: list[Beam] = []
    left: list[Beam] = []
    for t in range(max_length + 1):
        candidates: list[tuple[float, int, int, Beam]] = []
        for row, beam in enumerate(live):
            last = beam.words[-1] if beam.words else start
            said = textbook.step(
                torch.tensor([last]),
                beam.hidden[None],
                beam.memory[None],
                vectors[None],
                mask[None],
            )
            logprobs = said.logprobs[0].double()
            listed = logprobs.clone()
            listed[list(unlisted)] = -math.inf
            best = listed.topk(min(alternatives, len(listed)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            noted = tuple((word, p) for word, p in pairs if math.isfinite(p))
            allowed = logprobs.clone()
            allowed[list(forbidden)] = -math.inf
            for word in allowed.topk(min(2 * width, len(allowed))).indices.tolist():
                p = float(allowed[word])
                if math.isfinite(p):
                    beta = () if said.beta is None else (float(said.beta.mean()),)
                    grown = Beam(
                        (*beam.words, word),
                        beam.total + p,
                        said.hidden[0],
                        said.memory[0],
                        (*beam.logprobs, p),
                        (*beam.alphas, said.alpha[0]),
                        beam.betas + beta,
                        (*beam.alternatives, noted),
                    )
                    candidates.append((-grown.total, row, word, grown))
        candidates.sort(key=lambda candidate: candidate[:3])
        following: list[Beam] = []
        ended: set[int] = set()
        for rank, (_, row, word, grown) in enumerate(candidates[: 2 * width]):
            if len(following) == width:
                break
            if word != end:
                following.append(grown)
            elif rank < width:
                whole = replace(live[row], total=grown.total)
                found.append(scored(whole, t + 1, finished=True))
                ended.add(row)
        found.sort(key=lambda beam: -beam.score)
        if t == max_length:
            left = [
                scored(beam, max(1, t), finished=False)
                for row, beam in enumerate(live)
                if row not in ended
            ]
            break
        live = following
        if not live or (
            len(found) >= n_best
            and _decided(live, found, n_best, width, max_length, length_penalty)
        ):
            break
    left.sort(key=lambda beam: -beam.score)
    return [*found, *left][:n_best]


def _decided(
    live: list[Beam], found: list[Beam], n_best: int, width: int, max_length: int, penalty: float
) -> bool:
    """Return whether no live caption can beat the n_best-th finished one with three free words."""
    longest = min(len(live[0].words) + 3, max_length)
    reachable = max(beam.total for beam in live) / (longest + 1) ** penalty
    return width == 1 or found[n_best - 1].score >= reachable
