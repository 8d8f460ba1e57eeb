"""Section of a recipe that makes the decoder."""

from dataclasses import dataclass
from typing import Annotated

from regard.config.io import OneOf, Range, Section


@dataclass(frozen=True)
class DecoderConfig(Section, section="decoder"):
    """The attention LSTM (Xu et al. 2015, section 3.1)."""

    embedding_dim: Annotated[int, Range(1, 65536)] = 512
    """E, size of a word's embedding."""
    hidden_dim: Annotated[int, Range(1, 65536)] = 512
    """H, size of the LSTM's state."""
    attention_dim: Annotated[int, Range(1, 65536)] = 512
    """A, size in which query and keys are compared."""
    feature_dim: Annotated[int, Range(0, 65536)] = 0
    """D after a linear projection of the encoder's vectors; 0 keeps the encoder's own D."""
    annotation_norm: bool = False
    """LayerNorm on the annotations (after the projection)."""
    attention: Annotated[str, OneOf("soft", "hard")] = "soft"
    """soft: expectation over all cells; hard: one sampled cell."""
    scores: Annotated[str, OneOf("additive", "dot", "scaled_dot", "uniform")] = "additive"
    """additive (the paper's MLP), dot, scaled_dot, or uniform (every cell alike: a control)."""
    temperature: Annotated[float, Range(0, exclusive=True)] = 1.0
    """Divides the scores before the softmax."""
    gate: Annotated[str, OneOf("scalar", "feature", "none")] = "scalar"
    """beta: scalar (the paper), feature (one per annotation feature), or none."""
    init: Annotated[str, OneOf("mlp", "mean")] = "mlp"
    """First state: mlp (tanh MLPs of the mean annotation) or mean (the mean itself)."""
    position: Annotated[str, OneOf("none", "learned", "sinusoidal")] = "none"
    """Position code added to the annotations per grid axis: none, learned, sinusoidal."""
    grid_shape: Annotated[tuple[int, ...], Range(1)] = ()
    """The grid that a learned position code is made for; filled in by training."""
    output_activation: Annotated[str, OneOf("tanh", "linear")] = "tanh"
    """Of the deep output: tanh (released code) or linear (the paper's equation 7)."""
    dropout: Annotated[float, Range(0.0, 0.95)] = 0.5
    """After h_t, after the deep output, and in the first state's MLP."""
    embedding_dropout: Annotated[float, Range(0.0, 0.95)] = 0.0
    """On the word embeddings."""
    tie_embeddings: bool = False
    """Share the output matrix L_o with the embedding E."""
