"""Recipes: frozen dataclasses that TOML fills (`regard.config.io`) and the checkpoint stores whole.

A recipe is data: no evaluation, no class paths. This module imports neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from regard.config.encoder import DecoderConfig, EncoderConfig, VideoConfig, VolumeConfig
from regard.config.training import (
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainingConfig,
)
from regard.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """One experiment, whole."""

    name: str = "custom"
    """Printed in logs and stored in the checkpoint."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if self.objective.kind == "hard_attention" and self.decoder.attention != "hard":
            raise ConfigError(
                'objective.kind = "hard_attention" trains sampled cells, and decoder.attention is '
                f'{self.decoder.attention!r}. Set decoder.attention = "hard".'
            )
        if self.objective.kind == "cross_entropy" and self.decoder.attention == "hard":
            raise ConfigError(
                'decoder.attention = "hard" cannot be trained by cross_entropy alone: the sampled '
                'cell has no gradient. Set objective.kind = "hard_attention".'
            )


__all__ = [
    "DataConfig",
    "DecoderConfig",
    "DecodingConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "Recipe",
    "TrainingConfig",
    "VideoConfig",
    "VolumeConfig",
]
