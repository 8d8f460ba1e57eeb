"""One step of the decoder by hand, on a 2×2 grid: every number, then the library's.

    python examples/one_step.py

The arithmetic below uses Python's `math` alone. `check` gives the library the same weights
and asserts that it finds the same numbers. docs/one-step.md walks through the output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from regard.config import DecoderConfig
from regard.model.decoder import AttentionDecoder

Vector = list[float]
Matrix = list[Vector]

# Four annotation vectors, row by row on the grid: the upper row is a_1 a_2, the lower a_3 a_4.
ANNOTATIONS: Matrix = [[1, 0], [0, 1], [1, 1], [0, 0]]
WORDS = ["<start>", "dog", "grass"]

IDENTITY: Matrix = [[1, 0], [0, 1]]
INIT_HIDDEN: Matrix = [[1, 0], [0, -1]]
INIT_MEMORY: Matrix = [[1, 1], [0, 0]]
V: Vector = [2, 1]
GATE, GATE_BIAS = [1.0, 0.0], 1.0
EMBEDDING: Vector = [0.5, -0.5]  # of <start>
OUTPUT: Matrix = [[0, 0], [2, 0], [0, 2]]  # L_o, one row per word

# Two rows for each of the LSTM's gates i, f, o and the candidate g.
LSTM_WORD: Matrix = [[1, 0], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 1], [1, 0]]
LSTM_BIAS: Vector = [0, 0, 1, 1, 0, 0, 0, 0]
LSTM_RECURRENT: Matrix = [  # columns: the context's two features, then h's two
    [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1],
    [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0],
]  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """Everything that one step computes."""

    mean: Vector
    h_0: Vector
    c_0: Vector
    scores: Vector
    alpha: Vector
    expected: Vector
    beta: float
    context: Vector
    gates: Vector
    c_1: Vector
    h_1: Vector
    logits: Vector
    p: Vector


def dot(x: Vector, y: Vector) -> float:
    """x · y."""
    return sum(a * b for a, b in zip(x, y, strict=True))


def times(matrix: Matrix, x: Vector) -> Vector:
    """Matrix times vector."""
    return [dot(row, x) for row in matrix]


def tanh(x: Vector) -> Vector:
    """Tanh of every entry."""
    return [math.tanh(v) for v in x]


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return 1 / (1 + math.exp(-x))


def softmax(x: Vector) -> Vector:
    """e^x_i / sum_k e^x_k."""
    total = sum(math.exp(v) for v in x)
    return [math.exp(v) / total for v in x]


def plus(*vectors: Vector) -> Vector:
    """The sum of vectors."""
    return [sum(values) for values in zip(*vectors, strict=True)]


def by_hand() -> Numbers:
    """Compute h_1 and the first word's probabilities from the annotations."""
    # --8<-- [start:by_hand]
    mean = [sum(column) / len(ANNOTATIONS) for column in zip(*ANNOTATIONS, strict=True)]
    h_0 = tanh(times(INIT_HIDDEN, mean))
    c_0 = tanh(times(INIT_MEMORY, mean))
    # W_a and W_h are the identity here: e_i = v · tanh(a_i + h_0).
    scores = [dot(V, tanh(plus(a, h_0))) for a in ANNOTATIONS]
    alpha = softmax(scores)
    expected = [dot(alpha, list(column)) for column in zip(*ANNOTATIONS, strict=True)]
    beta = sigmoid(dot(GATE, h_0) + GATE_BIAS)
    context = [beta * z for z in expected]
    gates = plus(times(LSTM_WORD, EMBEDDING), LSTM_BIAS, times(LSTM_RECURRENT, context + h_0))
    i, f, o = ([sigmoid(x) for x in gates[k : k + 2]] for k in (0, 2, 4))
    g = tanh(gates[6:])
    c_1 = [f[k] * c_0[k] + i[k] * g[k] for k in range(2)]
    h_1 = [o[k] * math.tanh(c_1[k]) for k in range(2)]
    # L_h and L_z are the identity here.
    logits = times(OUTPUT, tanh(plus(EMBEDDING, h_1, context)))
    # --8<-- [end:by_hand]
    return Numbers(
        mean, h_0, c_0, scores, alpha, expected, beta, context, i + f + o + g, c_1, h_1, logits,
        softmax(logits),
    )  # fmt: skip


def library_decoder(attention: str = "soft") -> AttentionDecoder:
    """Build the library's decoder with the weights above."""
    config = DecoderConfig(
        embedding_dim=2, hidden_dim=2, attention_dim=2, attention=attention, dropout=0.0
    )
    decoder = AttentionDecoder(config, annotation_dim=2, vocabulary_size=len(WORDS))
    weights: dict[str, Matrix | Vector] = {
        "init_hidden.0.weight": INIT_HIDDEN,
        "init_hidden.0.bias": [0, 0],
        "init_memory.0.weight": INIT_MEMORY,
        "init_memory.0.bias": [0, 0],
        "attention.scores.key.weight": IDENTITY,
        "attention.scores.key.bias": [0, 0],
        "attention.scores.query.weight": IDENTITY,
        "attention.scores.v.weight": [V],
        "gate.linear.weight": [GATE],
        "gate.linear.bias": [GATE_BIAS],
        "embedding.weight": [EMBEDDING, [0, 0], [0, 0]],
        "lstm_word.weight": LSTM_WORD,
        "lstm_word.bias": LSTM_BIAS,
        "lstm_recurrent.weight": LSTM_RECURRENT,
        "output_hidden.weight": IDENTITY,
        "output_context.weight": IDENTITY,
        "output_context.bias": [0, 0],
        "output.weight": OUTPUT,
        "output.bias": [0, 0, 0],
    }
    decoder.load_state_dict({k: torch.tensor(v, dtype=torch.float32) for k, v in weights.items()})
    return decoder.eval()


def check(numbers: Numbers) -> None:
    """Assert that the library finds the same numbers."""
    annotations = torch.tensor([ANNOTATIONS], dtype=torch.float32)
    mask = torch.ones(1, 4, dtype=torch.bool)
    start = torch.tensor([WORDS.index("<start>")])
    with torch.no_grad():
        decoder = library_decoder()
        projected = decoder.project(annotations, mask)
        state = decoder.init_state(projected)
        step = decoder.step(start, state, projected)
        hard = library_decoder("hard").step(start, state, projected, context="argmax")
    assert step.beta is not None
    found = {
        "h_0": state.hidden,
        "c_0": state.memory,
        "alpha": step.alpha,
        "beta": step.beta,
        "c_1": step.state.memory,
        "h_1": step.state.hidden,
        "logits": step.logits,
    }
    for name, tensor in found.items():
        wanted = torch.tensor(getattr(numbers, name)).view_as(tensor)
        torch.testing.assert_close(tensor, wanted, msg=lambda text, name=name: f"{name}: {text}")
    assert hard.location is not None
    assert hard.location.item() == numbers.alpha.index(max(numbers.alpha))


def shown(value: float | Vector) -> str:
    """Four digits."""
    values = value if isinstance(value, list) else [value]
    return "  ".join(f"{v:.4f}" for v in values)


def main() -> None:
    """Print every number and compare with the library."""
    numbers = by_hand()
    for name, value in vars(numbers).items():
        print(f"{name:<9} {shown(value)}")
    check(numbers)
    print("The library finds the same numbers.")


if __name__ == "__main__":
    main()
