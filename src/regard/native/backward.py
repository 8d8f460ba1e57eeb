"""The backward pass of the unrolled recurrence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from regard.native.forward import Tape


def go_back(
    tape: Tape, grads: Sequence[Tensor | None], needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of what a tape was made of, in the order of its arguments.

    Args:
        tape: after its forward pass.
        grads: of what it yields (`regard.native.plan.Recurrence`); None: zero.
        needed: which of word gates, hidden, memory, keys, values and weights want a gradient.
    """
    hidden, context, alpha, beta, _, logprob = grads
    back = _Back(tape, alpha, logprob)
    back.run(hidden, context, beta)
    return back.gradients(values=needed[4])


class _Back:
    """Gradients on their way back, each named for what it is the gradient of."""

    def __init__(self, tape: Tape, of_alpha: Tensor | None, of_logprob: Tensor | None) -> None:
        self.tape = tape
        self.alpha = torch.zeros_like(tape.alpha) if of_alpha is None else of_alpha.contiguous()
        self.logprob = None
        if tape.location is not None:
            none = tape.alpha.new_zeros(len(tape.alpha))
            self.logprob = none if of_logprob is None else of_logprob.contiguous()
        # What h_{t-1} was multiplied into: query, gate and gates side by side, so that the step
        # back to h_{t-1} is one product and the gradient of all their weights is another.
        self.joint = tape.gates.new_empty(len(tape.gates), sum(tape.sizes))
        self.query, self.gates, self.gate, padding = self.joint.split(tape.sizes, 1)
        padding.zero_()
        self.scores, self.context = torch.empty_like(tape.alpha), torch.empty_like(tape.context)
        # Of the step at hand; captions that are not there yet have 0.
        self.hidden = torch.zeros_like(tape.first_hidden)
        self.memory = torch.zeros_like(tape.first_memory)

    def run(
        self, of_hidden: Tensor | None, of_visual: Tensor | None, of_beta: Tensor | None
    ) -> None:
        """Go from the last step to the first."""
        tape = self.tape
        spans = list(tape.plan.spans())
        by_hidden, by_context = tape.product(tape.by_hidden), tape.product(tape.by_context)
        befores = [tape.first_memory, *(tape.memory[span] for span, _ in spans)]
        for (span, count), before in zip(reversed(spans), reversed(befores[:-1]), strict=True):
            if of_hidden is not None:
                self.hidden[:count] += of_hidden[span]
            kept = tape.gates[span], before, tape.memory[span]
            sizes = count, before.shape[1], self.joint.shape[1]
            towards = self.hidden, self.memory, self.gates[span]
            tape.plan.loops.call("lstm_backward", *sizes, *kept, *towards)
            visual = by_context(self.gates[span])
            if of_visual is not None:
                visual += of_visual[span]
            self._through_gate(span, visual, None if of_beta is None else of_beta[span])
            self._through_attention(span, count)
            self.hidden[:count] = by_hidden(self.joint[span])

    def _through_gate(self, span: slice, visual: Tensor, of_beta: Tensor | None) -> None:
        tape = self.tape
        if tape.beta is None:
            self.context[span] = visual
            return
        beta = tape.beta[span]
        by_beta = visual * tape.context[span]
        if beta.shape[1] == 1:
            by_beta = by_beta.sum(1, keepdim=True)
        if of_beta is not None:
            by_beta += of_beta
        self.gate[span] = by_beta * beta * (1 - beta)
        torch.mul(visual, beta, out=self.context[span])

    def _through_attention(self, span: slice, count: int) -> None:
        tape, plan = self.tape, self.tape.plan
        query = torch.empty_like(tape.queries[span])
        expected = plan.expected
        if tape.location is not None and expected is None:
            expected = torch.zeros_like(plan.items, dtype=torch.bool)
        location = None if tape.location is None else tape.location[span]
        logprob = None if self.logprob is None else self.logprob[span]
        towards = self.context[span], self.alpha[span], expected, location, logprob
        kept = tape.values, tape.alpha[span]
        made = self.scores[span], query
        scoring = tape.scoring(span)
        plan.loops.call("attend_backward", count, *scoring, plan.scale, *kept, *towards, *made)
        self.query[span] = query

    def gradients(self, *, values: bool) -> tuple[Tensor | None, ...]:
        """Return the gradients of `Tape`'s arguments; that of the values only if wanted."""
        tape, weights = self.tape, self.tape.weights
        of_keys, of_v, of_values = self._of_annotations(values)
        by_hidden = self._weight(self.joint, self._hidden_before())
        of_query, of_hidden, of_gate, _ = by_hidden.split(tape.sizes, 0)
        of_context = self._weight(self.gates, tape.visual)
        return (
            self.gates,
            self.hidden,
            self.memory,
            of_keys,
            of_values,
            of_query,
            None if weights.query_bias is None else self.query.sum(0),
            of_v,
            None if weights.gate is None else of_gate,
            None if weights.gate is None else self.gate.sum(0),
            torch.cat([of_context, of_hidden], 1),
        )

    def _weight(self, of_product: Tensor, factor: Tensor) -> Tensor:
        """Return the gradient of W where of_product (R, ·) is that of factor (R, ·) W'."""
        lower = self.tape.plan.lower or factor.dtype
        return (of_product.to(lower).t() @ factor.to(lower)).to(factor.dtype)

    def _hidden_before(self) -> Tensor:
        """Return h_{t-1} of each row, (R, H)."""
        tape = self.tape
        spans = list(tape.plan.spans())
        first = tape.first_hidden[: spans[0][1]]
        rest = (tape.hidden[a.start : a.start + n] for (a, _), (_, n) in pairwise(spans))
        return torch.cat([first, *rest])

    def _of_annotations(self, values: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of keys, v and values, each the sum over an item's rows."""
        tape, plan = self.tape, self.tape.plan
        items, cells, size = tape.keys.shape
        v, features = tape.weights.v, tape.values.shape[2]
        of_item = torch.cat([plan.items[:count] for count in plan.counts])
        first = torch.zeros(items + 1, dtype=torch.int64)
        first[1:] = torch.bincount(of_item, minlength=items).cumsum(0)
        order = torch.argsort(of_item, stable=True)
        weights = self._weights_of_cells() if values else None
        of_v = None if v is None else tape.keys.new_empty(items, size)
        of_values = torch.empty_like(tape.values) if values else None
        kept = tape.keys, tape.queries, v, self.scores, weights, self.context
        made = of_v, of_values
        sizes = items, cells, size, features
        plan.loops.call("collect", *sizes, first, order, *kept, *made)
        # `collect` has put the gradient of the keys in their place
        return tape.keys, None if of_v is None else of_v.sum(0), of_values

    def _weights_of_cells(self) -> Tensor:
        """Return what each cell had of each row's context, (R, L): alpha, or 1 at one cell."""
        tape, plan = self.tape, self.tape.plan
        if tape.location is None:
            return tape.alpha
        chosen = torch.zeros_like(tape.alpha).scatter_(1, tape.location[:, None], 1.0)
        if plan.expected is None:
            return chosen
        expected = torch.cat([plan.expected[:count] for count in plan.counts])
        return torch.where(expected[:, None], tape.alpha, chosen)
