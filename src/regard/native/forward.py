"""The forward pass of the unrolled recurrence, and what it keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.native import ALIGNED
from regard.native.plan import Plan, Weights
from regard.native.product import Multiplies, product


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
