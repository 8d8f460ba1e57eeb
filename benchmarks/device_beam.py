"""Beam search that stays on the decoder's device, for throughput on a GPU.

`regard.decoding.beam` decides on the host after every word. This one finds the same best caption
with tensors alone: it never waits for the device and its shapes do not depend on the words, so
that the whole search can be recorded as one CUDA graph (`benchmarks.cuda_graphs`). It runs to the
longest caption, does not support prefixes, blocked n-grams or runners-up, and may break ties
differently. A test compares its captions and traces with the other's.

No number is copied from the host during the search, as `torch.where(x, y, 0.0)` would: such a copy
cannot be recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from regard.decoding.topk import Ids
from regard.model.decoder import AttentionDecoder
from regard.types import DecoderState, ProjectedAnnotations


class Best(NamedTuple):
    """The best caption of each of N items; values beyond its end are 0.

    Attributes:
        tokens: (N, T) ids, T the longest length that was allowed.
        logprobs: (N, T) of each word.
        alpha: (N, T, L).
        length: (N,) words.
        score: (N,) float64, the sum of log-probabilities over length ** penalty.
        finished: (N,) bool, whether the end was reached.
    """

    tokens: Tensor
    logprobs: Tensor
    alpha: Tensor
    length: Tensor
    score: Tensor
    finished: Tensor


@dataclass(frozen=True)
class _Said:
    """One word of all live captions: the first three (N, W) after the choice, alpha before it."""

    parent: Tensor
    token: Tensor
    logprob: Tensor
    alpha: Tensor


@dataclass(frozen=True)
class _Found:
    """The best caption of each item so far that ended (or cannot continue), (N,) each."""

    score: Tensor
    row: Tensor
    length: Tensor

    def or_better(self, score: Tensor, row: Tensor, length: int) -> _Found:
        better = score > self.score
        return _Found(
            torch.where(better, score, self.score),
            torch.where(better, row, self.row),
            self.length.masked_fill(better, length),
        )


def search(
    decoder: AttentionDecoder,
    projected: ProjectedAnnotations,
    ids: Ids,
    *,
    beam: int = 3,
    max_length: int = 20,
    min_length: int = 0,
    length_penalty: float = 0.0,
) -> Best:
    """Return the best caption of each item, as `decode_beam` finds it.

    Args:
        decoder: in evaluation mode, gradients off.
        projected: N items.
        ids: the special ids.
        beam: captions kept per item, two or more.
        max_length: words of the longest caption.
        min_length: words of the shortest.
        length_penalty: as in `DecodingOptions`.
    """
    items = projected.mask.shape[0]
    device = projected.mask.device
    state = decoder.init_state(projected, beam)
    token = torch.full((items, beam), ids.start, device=device)
    # All rows of an item start equal, so only its first may branch.
    total = torch.full((items, beam), -torch.inf, dtype=torch.float64, device=device)
    total[:, 0] = 0
    nothing = torch.zeros(items, dtype=torch.long, device=device)
    found = _Found(total.new_full((items,), -torch.inf), nothing, nothing)
    said: list[_Said] = []
    for t in range(max_length + 1):
        step = decoder.step(token.flatten(), state, projected)
        banned = [*ids.forbidden, ids.end] if t < min_length else [*ids.forbidden]
        sums, words = _strongest(step.logits.view(items, beam, -1), total, banned, 2 * beam)
        parent, word = words // step.logits.shape[-1], words % step.logits.shape[-1]
        # An end that would not have stayed in the beam does not count.
        ended = (word == ids.end) & (torch.arange(2 * beam, device=device) < beam)
        best, at = sums.masked_fill(~ended, -torch.inf).max(1)
        found = found.or_better(
            best / (t + 1) ** length_penalty, parent.gather(1, at[:, None]).squeeze(1), t
        )
        if t == max_length:
            break
        # The strongest that go on, in their order; a stable sort puts the ends behind them.
        kept = (word == ids.end).long().argsort(dim=1, stable=True)[:, :beam]
        parent, token = parent.gather(1, kept), word.gather(1, kept)
        before, total = total, sums.gather(1, kept)
        alpha = step.alpha.view(items, beam, -1)
        said.append(_Said(parent, token, total - before.gather(1, parent), alpha))
        rows = parent + torch.arange(items, device=device)[:, None] * beam
        state = DecoderState(step.state.hidden[rows.flatten()], step.state.memory[rows.flatten()])
    finished = found.score > -torch.inf
    left, row = total.max(1)
    unfinished = _Found(left / max(1, max_length) ** length_penalty, row, nothing + max_length)
    chosen = replace(
        found,
        score=torch.where(finished, found.score, unfinished.score),
        row=torch.where(finished, found.row, unfinished.row),
        length=torch.where(finished, found.length, unfinished.length),
    )
    return _read(said, chosen, finished)


def _strongest(
    logits: Tensor, total: Tensor, banned: list[int], count: int
) -> tuple[Tensor, Tensor]:
    """Return the largest sums of an item's captions and their next words, best first.

    Args:
        logits: (N, W, V), of words that follow captions of log-probability `total` (N, W);
            those of banned words are overwritten.
        total: float64.
        banned: ids that may not follow.
        count: number of results.

    Returns:
        (N, count) sums, and row · V + id of each.
    """
    words = logits.shape[-1]
    logits = logits.float()
    norm = logits.logsumexp(-1, keepdim=True)
    for word in banned:  # one by one: a tensor of ids would have to come from the host
        logits[..., word] = -torch.inf
    strongest, ids = logits.topk(count, -1)  # of each caption, so that few sums are left
    sums = (total[..., None] + (strongest - norm)).flatten(1)
    best, at = sums.topk(count, -1)
    row = at // count
    return best, row * words + ids.flatten(1).gather(1, at)


def _read(said: list[_Said], chosen: _Found, finished: Tensor) -> Best:
    """Read each item's caption backwards, from the row that held it when it had all its words."""
    row = chosen.row
    here = torch.arange(len(row), device=row.device)
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    alpha: list[Tensor] = []
    for t in range(len(said) - 1, -1, -1):
        step, inside = said[t], t < chosen.length
        before = torch.where(inside, step.parent[here, row], row)
        tokens.append(step.token[here, row] * inside)
        logprobs.append(step.logprob[here, row].masked_fill(~inside, 0))
        alpha.append(step.alpha[here, before].masked_fill(~inside[:, None], 0))
        row = before
    return Best(
        torch.stack(tokens[::-1], 1),
        torch.stack(logprobs[::-1], 1),
        torch.stack(alpha[::-1], 1),
        chosen.length,
        chosen.score,
        finished,
    )
