"""The recurrence over given captions (teacher forcing) in compiled loops, forward and backward.

Attention, gate and LSTM of all steps are one differentiable function of the words' share of the
gates, the first state, keys, values and weights. Its oracle is the loop of
`regard.model.decoder.AttentionDecoder`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.native.cpp_library import ALIGNED, Library
from regard.native.functional import Product, product
from regard.types import LocationChooser


@dataclass(frozen=True)
class UnrollPlan:
    """Everything but the tensors with gradients. Captions are ordered by length, longest first.

    Attributes:
        library: compiled, for the type of all tensors.
        counts: captions at each step, never more than at the step before.
        items: (B,) int64, the item of each caption.
        mask: (N, L) bool, True = real cell.
        scale: what scores are multiplied with.
        choose: given alpha (n, L) of a step returns the chosen cells (n,); None where all
            contexts are expectations.
        expected: (B,) bool, True for captions whose contexts are expectations although cells
            are chosen; None: none.
        autocast: type that matrix products are computed in; None: their own.
    """

    library: Library
    counts: tuple[int, ...]
    items: Tensor
    mask: Tensor
    scale: float
    choose: LocationChooser | None
    expected: Tensor | None
    autocast: torch.dtype | None

    def spans(self) -> Iterator[tuple[slice, int]]:
        """Yield the rows of each step and their number."""
        for stop, count in zip(accumulate(self.counts), self.counts, strict=True):
            yield slice(stop - count, stop), count


class RecurrentWeights(NamedTuple):
    """The decoder's weights that the recurrence uses; None for a part that it lacks.

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


class RecurrenceOutput(NamedTuple):
    """The output of the steps of R rows.

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


class ForwardPass:
    """The steps from first to last, with everything that the backward pass needs.

    Attributes, besides the inputs:
        keys: (N, L, A); exp(-2 keys) of additive scores (`Library.exponentials`).
        coded: whether some keys or queries are too large for their exponential.
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
        plan: UnrollPlan,
        word_gates: Tensor,
        hidden: Tensor,
        memory: Tensor,
        keys: Tensor,
        values: Tensor,
        *weights: Tensor | None,
    ) -> None:
        self.plan, self.weights = plan, RecurrentWeights(*weights)  # type: ignore[arg-type]
        self.first_hidden, self.first_memory = hidden.contiguous(), memory.contiguous()
        self.values = values.contiguous()
        # A copy in any case: the gradient will be written over it.
        self.keys, self.coded = torch.empty(keys.shape, dtype=keys.dtype), False
        if self.weights.v is None:
            self.keys.copy_(keys)
        else:
            self.coded = plan.library.exponentials(keys.contiguous(), self.keys)
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
        self.reverse = False  # alternates; see `attend` in cpp/attention.cpp

    def outputs(self) -> tuple[Tensor | None, ...]:
        """Return the fields of `RecurrenceOutput`."""
        logprob = None
        if self.location is not None:
            logprob = self.alpha.gather(1, self.location[:, None]).squeeze(1).log()
        return self.hidden, self.visual, self.alpha, self.beta, self.location, logprob

    def run(self) -> None:
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
            self.plan.library.call(
                "lstm", rows=count, units=hidden.shape[1], gates=self.gates[rows], before=memory,
                memory=self.memory[rows], hidden=self.hidden[rows],
            )  # fmt: skip
            hidden, memory = self.hidden[rows], self.memory[rows]

    def _attend(self, rows: slice, count: int, query: Tensor) -> None:
        plan, bias = self.plan, self.weights.query_bias
        query = query.contiguous() if bias is None else query + bias
        if self.weights.v is not None:
            coded = plan.library.exponentials(query, self.queries[rows])
            self.coded = self.coded or coded
        else:
            self.queries[rows] = query
        plan.library.call(
            "attend", **self.scoring(rows), mask=plan.mask, alpha=self.alpha[rows],
            context=self.context[rows],
        )  # fmt: skip
        if plan.choose is not None and self.location is not None:
            location = self.location[rows] = plan.choose(self.alpha[rows])
            chosen = self.values[plan.items[:count], location]
            if plan.expected is not None:
                kept = plan.expected[:count, None]
                chosen = torch.where(kept, self.context[rows], chosen)
            self.context[rows] = chosen

    def scoring(self, rows: slice) -> dict[str, Any]:
        """Return the loops' arguments for the rows to score."""
        _, cells, size = self.keys.shape
        queries = self.queries[rows]
        self.reverse = not self.reverse
        return {
            **{"rows": len(queries), "cells": cells, "size": size, "item": self.plan.items},
            **{"keys": self.keys, "queries": queries, "v": self.weights.v},
            **{"values": self.values, "features": self.values.shape[2]},
            **{"coded": int(self.coded), "reverse": int(self.reverse), "scale": self.plan.scale},
        }

    def product(self, weight: Tensor) -> Product:
        """Return the product with a weight (inner, outer), in the plan's type."""
        return product(weight, self.plan.library, self.plan.autocast)


class BackwardPass:
    """The steps from last to first; its tensors are gradients of what they are named after."""

    def __init__(
        self, saved: ForwardPass, grad_alpha: Tensor | None, grad_logprob: Tensor | None
    ) -> None:
        self.saved = saved
        self.alpha = (
            torch.zeros_like(saved.alpha) if grad_alpha is None else grad_alpha.contiguous()
        )
        self.logprob = None
        if saved.location is not None:
            none = saved.alpha.new_zeros(len(saved.alpha))
            self.logprob = none if grad_logprob is None else grad_logprob.contiguous()
        # What h_{t-1} was multiplied into: query, gate and gates side by side, so that the step
        # back to h_{t-1} is one product and the gradient of all their weights is another.
        self.joint = saved.gates.new_empty(len(saved.gates), sum(saved.sizes))
        self.query, self.gates, self.gate, padding = self.joint.split(saved.sizes, 1)
        padding.zero_()
        self.scores, self.context = torch.empty_like(saved.alpha), torch.empty_like(saved.context)
        # Of the step at hand; captions that are not there yet have 0.
        self.hidden = torch.zeros_like(saved.first_hidden)
        self.memory = torch.zeros_like(saved.first_memory)

    def run(
        self, grad_hidden: Tensor | None, grad_visual: Tensor | None, grad_beta: Tensor | None
    ) -> None:
        """Go from the last step to the first."""
        saved = self.saved
        spans = list(saved.plan.spans())
        by_hidden, by_context = saved.product(saved.by_hidden), saved.product(saved.by_context)
        befores = [saved.first_memory, *(saved.memory[span] for span, _ in spans)]
        for (span, count), before in zip(reversed(spans), reversed(befores[:-1]), strict=True):
            if grad_hidden is not None:
                self.hidden[:count] += grad_hidden[span]
            saved.plan.library.call(
                "lstm_backward", rows=count, units=before.shape[1], stride=self.joint.shape[1],
                gates=saved.gates[span], before=before, memory=saved.memory[span],
                grad_hidden=self.hidden, grad_memory=self.memory, grad_gates=self.gates[span],
            )  # fmt: skip
            visual = by_context(self.gates[span])
            if grad_visual is not None:
                visual += grad_visual[span]
            self._through_gate(span, visual, None if grad_beta is None else grad_beta[span])
            self._through_attention(span)
            self.hidden[:count] = by_hidden(self.joint[span])

    def _through_gate(self, span: slice, visual: Tensor, grad_beta: Tensor | None) -> None:
        saved = self.saved
        if saved.beta is None:
            self.context[span] = visual
            return
        beta = saved.beta[span]
        by_beta = visual * saved.context[span]
        if beta.shape[1] == 1:
            by_beta = by_beta.sum(1, keepdim=True)
        if grad_beta is not None:
            by_beta += grad_beta
        self.gate[span] = by_beta * beta * (1 - beta)
        torch.mul(visual, beta, out=self.context[span])

    def _through_attention(self, span: slice) -> None:
        saved, plan = self.saved, self.saved.plan
        query = torch.empty_like(saved.queries[span])
        expected = plan.expected
        if saved.location is not None and expected is None:
            expected = torch.zeros_like(plan.items, dtype=torch.bool)
        plan.library.call(
            "attend_backward", **saved.scoring(span), alpha=saved.alpha[span],
            grad_context=self.context[span], grad_alpha=self.alpha[span], expected=expected,
            chosen=None if saved.location is None else saved.location[span],
            grad_logprob=None if self.logprob is None else self.logprob[span],
            grad_scores=self.scores[span], grad_queries=query,
        )  # fmt: skip
        self.query[span] = query

    def gradients(self, *, values: bool) -> tuple[Tensor | None, ...]:
        """Return the gradients of the tensors of `unroll`; that of the values only if needed."""
        saved, weights = self.saved, self.saved.weights
        grad_keys, grad_v, grad_values = self._of_annotations(values)
        by_hidden = self._weight(self.joint, self._hidden_before())
        grad_query, grad_hidden, grad_gate, _ = by_hidden.split(saved.sizes, 0)
        grad_context = self._weight(self.gates, saved.visual)
        return (
            self.gates,
            self.hidden,
            self.memory,
            grad_keys,
            grad_values,
            grad_query,
            None if weights.query_bias is None else self.query.sum(0),
            grad_v,
            None if weights.gate is None else grad_gate,
            None if weights.gate is None else self.gate.sum(0),
            torch.cat([grad_context, grad_hidden], 1),
        )

    def _weight(self, grad_product: Tensor, factor: Tensor) -> Tensor:
        """Return the gradient of W where grad_product (R, ·) is that of factor (R, ·) W'."""
        autocast = self.saved.plan.autocast or factor.dtype
        return (grad_product.to(autocast).t() @ factor.to(autocast)).to(factor.dtype)

    def _hidden_before(self) -> Tensor:
        """Return h_{t-1} of each row, (R, H)."""
        saved = self.saved
        spans = list(saved.plan.spans())
        first = saved.first_hidden[: spans[0][1]]
        rest = (saved.hidden[a.start : a.start + n] for (a, _), (_, n) in pairwise(spans))
        return torch.cat([first, *rest])

    def _of_annotations(self, values: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of keys, v and values, each the sum over an item's rows."""
        saved, plan = self.saved, self.saved.plan
        items, cells, size = saved.keys.shape
        v = saved.weights.v
        item_of_row = torch.cat([plan.items[:count] for count in plan.counts])
        first = torch.zeros(items + 1, dtype=torch.int64)
        first[1:] = torch.bincount(item_of_row, minlength=items).cumsum(0)
        order = torch.argsort(item_of_row, stable=True)
        grad_v = None if v is None else saved.keys.new_empty(items, size)
        grad_values = torch.empty_like(saved.values) if values else None
        plan.library.call(
            "collect", items=items, cells=cells, size=size, features=saved.values.shape[2],
            first=first, row=order, keys=saved.keys, queries=saved.queries, v=v,
            coded=int(saved.coded), grad_scores=self.scores,
            weights=self._weights_of_cells() if values else None, grad_context=self.context,
            grad_v=grad_v, grad_values=grad_values,
        )  # fmt: skip
        # `collect` has replaced the keys by their gradient
        return saved.keys, None if grad_v is None else grad_v.sum(0), grad_values

    def _weights_of_cells(self) -> Tensor:
        """Return each cell's share of each row's context, (R, L): alpha, or 1 at one cell."""
        saved, plan = self.saved, self.saved.plan
        if saved.location is None:
            return saved.alpha
        chosen = torch.zeros_like(saved.alpha).scatter_(1, saved.location[:, None], 1.0)
        if plan.expected is None:
            return chosen
        expected = torch.cat([plan.expected[:count] for count in plan.counts])
        return torch.where(expected[:, None], saved.alpha, chosen)


def unroll(plan: UnrollPlan, weights: RecurrentWeights, *tensors: Tensor) -> RecurrenceOutput:
    """Run all steps.

    Args:
        plan: the arguments that are not tensors with a gradient.
        weights: the decoder's.
        tensors: (R, 4H), what the words add to the LSTM's gates, step by step; h_0 and c_0, each
            (B, H) in order of length; the annotations' keys (N, L, A) and values (N, L, D).
    """
    return RecurrenceOutput(*_Unroll.apply(plan, *tensors, *weights))  # type: ignore[no-untyped-call]


class _Unroll(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # pyright: ignore[reportUntypedFunctionDecorator]
    def forward(ctx: Any, plan: UnrollPlan, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved = ForwardPass(plan, *tensors)  # type: ignore[arg-type]
        saved.run()
        ctx.set_materialize_grads(False)
        # Other tensors over the same numbers: what is saved must not hold the graph.
        out = tuple(None if x is None else x.detach() for x in saved.outputs())
        if out[4] is not None:
            ctx.mark_non_differentiable(out[4])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")  # pyright: ignore[reportUntypedFunctionDecorator]
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if ctx.saved is None:
            raise RuntimeError("the backward pass was made already; run the forward pass again")
        saved, ctx.saved = ctx.saved, None  # its memory is needed for the gradients that follow
        hidden, context, alpha, beta, _, logprob = grads
        backward = BackwardPass(saved, alpha, logprob)
        backward.run(hidden, context, beta)
        return None, *backward.gradients(values=ctx.needs_input_grad[5])
