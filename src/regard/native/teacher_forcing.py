"""What the unrolled recurrence is given, and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.native import ALIGNED, Library
from regard.native.products import Multiplies, product


@dataclass(frozen=True)
class Plan:
    """What is no tensor with a gradient. Captions are in order of length, the longest first.

    Attributes:
        loops: compiled, for the type of all tensors.
        counts: captions at each step, never more than at the step before.
        items: (B,) int64, the item of each caption.
        mask: (N, L) bool, True = real cell.
        scale: what scores are multiplied with.
        choose: given alpha (n, L) of a step returns the chosen cells (n,); None where all
            contexts are expectations.
        expected: (B,) bool, True for captions whose contexts are expectations although cells
            are chosen; None: none.
        lower: type that matrix products are computed in; None: their own.
    """

    loops: Library
    counts: tuple[int, ...]
    items: Tensor
    mask: Tensor
    scale: float
    choose: Callable[[Tensor], Tensor] | None
    expected: Tensor | None
    lower: torch.dtype | None

    def spans(self) -> Iterator[tuple[slice, int]]:
        """Yield the rows of each step and their number."""
        for stop, count in zip(accumulate(self.counts), self.counts, strict=True):
            yield slice(stop - count, stop), count


class Weights(NamedTuple):
    """The decoder's weights that the recurrence uses; None where there is no such part.

    Attributes:
        query: (A, H).
        query_bias: (A,).
        v: (A,) of additive scores; None for dot products.
        gate: (1 or D, H).
        gate_bias: (1 or D,).
        recurrent: (4H, D + H), the LSTM's for [context; hidden], gates in the order i, f, o, g.
    """

    query: Tensor
    query_bias: Tensor | None
    v: Tensor | None
    gate: Tensor | None
    gate_bias: Tensor | None
    recurrent: Tensor


class Recurrence(NamedTuple):
    """What R rows of steps yield.

    Attributes:
        hidden: (R, H), h_t.
        context: (R, D), after the gate.
        alpha: (R, L).
        beta: (R, 1 or D), or None without a gate.
        location: (R,) chosen cells, or None.
        location_logprob: (R,) log alpha there, or None.
    """

    hidden: Tensor
    context: Tensor
    alpha: Tensor
    beta: Tensor | None
    location: Tensor | None
    location_logprob: Tensor | None


class Tape:
    """The inputs of a pass and all that its way back needs.

    Attributes, besides the inputs:
        keys: (N, L, A); exp(-2 keys) of additive scores, as `regard.native` wants them.
        sizes: rows of `by_hidden` that make the query, the LSTM's gates, the gate and padding.
        by_hidden: (A + 4H + gate + padding, H), all weights that h_{t-1} is multiplied with.
        by_context: (4H, D), the weight that the context is multiplied with.
        gates: (R, 4H) i, f, o, g after their activations.
        hidden: (R, H).
        memory: (R, H).
        queries: (R, A); exp(-2 queries) of additive scores.
        alpha: (R, L).
        context: (R, D) before the gate.
        visual: (R, D) after it.
        beta: (R, 1 or D), or None.
        location: (R,), or None.
    """

    def __init__(
        self,
        plan: Plan,
        word_gates: Tensor,
        hidden: Tensor,
        memory: Tensor,
        keys: Tensor,
        values: Tensor,
        *weights: Tensor | None,
    ) -> None:
        self.plan, self.weights = plan, Weights(*weights)  # type: ignore[arg-type]
        self.first_hidden, self.first_memory = hidden.contiguous(), memory.contiguous()
        self.values = values.contiguous()
        # A copy in any case: the gradient will be written over it.
        additive = self.weights.v is not None
        self.keys = self.exponentials(keys.contiguous()) if additive else keys.clone()
        units, features = hidden.shape[1], values.shape[2]
        query, gate, recurrent = self.weights.query, self.weights.gate, self.weights.recurrent
        sizes = [len(query), 4 * units, 0 if gate is None else len(gate)]
        # Rows that begin at multiples of 64 bytes: products that write them are faster.
        self.sizes = [*sizes, -sum(sizes) % ALIGNED]
        padding = query.new_zeros(self.sizes[-1], units)
        gate_rows = [] if gate is None else [gate]
        by_hidden = [query, recurrent[:, features:], *gate_rows, padding]
        self.by_hidden = torch.cat(by_hidden)
        self.by_context = recurrent[:, :features]
        rows, new = len(word_gates), word_gates.new_empty
        self.gates = word_gates.clone(memory_format=torch.contiguous_format)
        self.hidden, self.memory = new(rows, units), new(rows, units)
        self.queries = new(rows, len(query))
        self.alpha = new(rows, keys.shape[1])
        self.context = new(rows, features)
        self.beta = None if gate is None else new(rows, len(gate))
        self.visual = self.context if gate is None else new(rows, features)
        self.location = None if plan.choose is None else plan.items.new_empty(rows)
        self.backwards = False  # turns at every step; see `attend` in loops/cpp/attention.cpp

    def out(self) -> tuple[Tensor | None, ...]:
        """Return what `regard.native.plan.Recurrence` holds."""
        logprob = None
        if self.location is not None:
            logprob = self.alpha.gather(1, self.location[:, None]).squeeze(1).log()
        return self.hidden, self.visual, self.alpha, self.beta, self.location, logprob

    def forward(self) -> None:
        """Run all steps."""
        hidden, memory = self.first_hidden, self.first_memory
        by_hidden, by_context = self.product(self.by_hidden.t()), self.product(self.by_context.t())
        for rows, count in self.plan.spans():
            query, gates, gate, _ = by_hidden(hidden[:count]).split(self.sizes, 1)
            self._attend(rows, count, query)
            if self.beta is not None and self.weights.gate_bias is not None:
                torch.sigmoid(gate + self.weights.gate_bias, out=self.beta[rows])
                torch.mul(self.beta[rows], self.context[rows], out=self.visual[rows])
            self.gates[rows] += gates
            by_context.add_to(self.gates[rows], self.visual[rows])
            after = self.gates[rows], memory, self.memory[rows], self.hidden[rows]
            self.plan.loops.call("lstm", count, hidden.shape[1], *after)
            hidden, memory = self.hidden[rows], self.memory[rows]

    def _attend(self, rows: slice, count: int, query: Tensor) -> None:
        plan, bias = self.plan, self.weights.query_bias
        query = query.contiguous() if bias is None else query + bias
        if self.weights.v is not None:
            self.exponentials(query, self.queries[rows])
        else:
            self.queries[rows] = query
        looked = self.values, self.alpha[rows], self.context[rows]
        plan.loops.call("attend", count, *self.scoring(rows), plan.mask, plan.scale, *looked)
        if plan.choose is not None and self.location is not None:
            location = self.location[rows] = plan.choose(self.alpha[rows])
            chosen = self.values[plan.items[:count], location]
            if plan.expected is not None:
                kept = plan.expected[:count, None]
                chosen = torch.where(kept, self.context[rows], chosen)
            self.context[rows] = chosen

    def scoring(self, rows: slice) -> tuple[int | Tensor | None, ...]:
        """Return the arguments of the loops that say what these rows score."""
        _, cells, size = self.keys.shape
        given = self.plan.items, self.keys, self.queries[rows], self.weights.v
        self.backwards = not self.backwards
        return cells, size, self.values.shape[2], *given, int(self.backwards)

    def exponentials(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return exp(-2 x) of contiguous numbers."""
        out = torch.empty_like(x) if out is None else out
        self.plan.loops.call("exponentials", x.numel(), x, out)
        return out

    def product(self, weight: Tensor) -> Multiplies:
        """Return the product with a weight (inner, outer), in the plan's type."""
        return product(weight, self.plan.loops, self.plan.lower)


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


def unroll(
    word_gates: Tensor,
    hidden: Tensor,
    memory: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Weights,
    plan: Plan,
) -> Recurrence:
    """Run all steps.

    Args:
        word_gates: (R, 4H), what the words add to the LSTM's gates, step by step.
        hidden: (B, H), h_0 in order of length.
        memory: (B, H), c_0 likewise.
        keys: (N, L, A).
        values: (N, L, D).
        weights: the decoder's.
        plan: the rest.
    """
    tensors = (word_gates, hidden, memory, keys, values, *weights)
    return Recurrence(*_Unroll.apply(plan, *tensors))  # type: ignore[no-untyped-call]


class _Unroll(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # pyright: ignore[reportUntypedFunctionDecorator]
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        tape = ctx.tape = Tape(plan, *tensors)  # type: ignore[arg-type]
        tape.forward()
        ctx.set_materialize_grads(False)
        # Other tensors over the same numbers: what the tape holds must not hold the graph.
        out = tuple(None if x is None else x.detach() for x in tape.out())
        if out[4] is not None:
            ctx.mark_non_differentiable(out[4])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")  # pyright: ignore[reportUntypedFunctionDecorator]
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if ctx.tape is None:
            raise RuntimeError("the backward pass was made already; run the forward pass again")
        tape, ctx.tape = ctx.tape, None  # its memory is needed for the gradients that follow
        of_tensors = go_back(tape, grads, ctx.needs_input_grad[1:])
        return None, *of_tensors
