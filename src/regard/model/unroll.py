"""Teacher forcing without padding: packed captions, and the compiled recurrence over them.

Captions are ordered by length, the longest first, so that step t concerns the first n_t of them.
Their rows stand step by step: n_0 rows of step 0, n_1 of step 1, and so on. Computing on such rows
costs nothing for padding. Two captions of 1 and 2 words: order (1, 0), counts (2, 1), and the rows
are caption 1 step 0, caption 0 step 0, caption 1 step 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.model.attention import Attention, Gate, HardAttention
from regard.model.rng import Rng, exponential
from regard.native import dispatch
from regard.native.functional import cpu_autocast
from regard.native.teacher_forcing import RecurrenceOutput, RecurrentWeights, UnrollPlan, unroll
from regard.types import DecoderState, ProjectedAnnotations, location_chooser


@dataclass(frozen=True)
class Packing:
    """The layout of the R packed rows of B captions of up to T steps.

    Attributes:
        order: (B,) the caption that is first, second, ... in order of length.
        counts: captions that have a step t, for t = 0 ... T' - 1, where T' is the longest.
        flat: (R,) index of each row in (B, T) read row by row.
        shape: (B, T).
    """

    order: Tensor
    counts: tuple[int, ...]
    flat: Tensor
    shape: tuple[int, int]

    def to(self, device: torch.device) -> Packing:
        """Return the same layout with its indices on a device; `counts` stay on the host."""
        order, flat = (x.to(device, non_blocking=True) for x in (self.order, self.flat))
        return Packing(order, self.counts, flat, self.shape)

    def pack(self, x: Tensor) -> Tensor:
        """Return the rows (R, ...) of x (B, T, ...)."""
        return x.flatten(0, 1).index_select(0, self.flat)

    def unpack(self, rows: Tensor) -> Tensor:
        """Return (B, T, ...) with the rows (R, ...) in place and 0 elsewhere."""
        captions, steps = self.shape
        padded = rows.new_zeros(captions * steps, *rows.shape[1:])
        return padded.index_copy(0, self.flat, rows).view(captions, steps, *rows.shape[1:])


def pack_captions(steps: Tensor) -> Packing:
    """Plan the rows of captions.

    Plan on the CPU and move the plan: on a GPU the host would wait for the counts.

    Args:
        steps: (B, T) bool, True = a word; a caption is as long as its last one.
    """
    captions, longest = steps.shape
    places = torch.arange(1, longest + 1, device=steps.device)
    lengths = (steps * places).amax(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    present = lengths[order] >= places[:, None]  # (T, B), in order
    counts = tuple(n for n in present.sum(1).tolist() if n)
    step, row = present.nonzero(as_tuple=True)
    return Packing(order, counts, order[row] * longest + step, (captions, longest))


def pack_unpadded(captions: int, steps: int, device: torch.device) -> Packing:
    """Plan the rows of captions that all have `steps` steps, without waiting for the device."""
    order = torch.arange(captions, device=device)
    flat = order * steps + torch.arange(steps, device=device)[:, None]
    return Packing(order, (captions,) * steps, flat.flatten(), (captions, steps))


def unroll_compiled(
    parts: tuple[Attention, Gate | None, nn.Linear],
    word_gates: Tensor,
    state: DecoderState,
    projected: ProjectedAnnotations,
    rows: Packing,
    *,
    context: str | Tensor,
    generator: Rng | None,
) -> RecurrenceOutput | None:
    """Run the recurrent half of all steps in compiled loops; None if only the decoder's loop can.

    The same random numbers are drawn as by the decoder's loop, in the same order.

    Args:
        parts: attention, gate and the LSTM's layer for [context; hidden].
        word_gates: (R, 4H), packed.
        state: h_0 and c_0, B rows.
        projected: N items, each shared by B / N consecutive captions.
        rows: where the R rows lie.
        context: as in `AttentionDecoder.forward`.
        generator: random generator of sampled locations.
    """
    attention, gate, recurrent = parts
    scoring, autocast = attention.scores.weights(), cpu_autocast()
    case = dispatch.case_of(
        word_gates, autocast=autocast is not None, known_scores=scoring is not None
    )
    library = dispatch.TEACHER_FORCING.library(case)
    if library is None or scoring is None:
        return None
    captions, cells = len(rows.order), projected.mask.shape[1]

    def noise(alpha: Tensor) -> Tensor:  # as the loop draws it, for all captions at every step
        drawn = exponential(alpha, (captions, cells), generator)
        return drawn[rows.order[: len(alpha)]]

    switch = None if isinstance(context, str) else context
    name = context if isinstance(context, str) else "sample"
    choose = None
    if isinstance(attention, HardAttention):
        choose = location_chooser(name, noise)
    plan = UnrollPlan(
        library=library,
        counts=rows.counts,
        items=rows.order // (captions // len(projected.mask)),
        mask=projected.mask.contiguous(),
        scale=attention.scores.scale / attention.temperature,
        choose=choose,
        expected=None if choose is None or switch is None else switch[rows.order],
        autocast=autocast,
    )
    weights = RecurrentWeights(
        *scoring,
        None if gate is None else gate.linear.weight,
        None if gate is None else gate.linear.bias,
        recurrent.weight,
    )
    hidden, memory = state.hidden[rows.order], state.memory[rows.order]
    found = unroll(plan, weights, word_gates, hidden, memory, projected.keys, projected.values)
    if choose is not None and name == "sample":
        # The loop draws at steps of padding too, which longer captions elsewhere may have.
        for _ in range(rows.shape[1] - len(rows.counts)):
            exponential(found.alpha, (captions, cells), generator)
    return found
