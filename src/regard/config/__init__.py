"""Recipes: frozen dataclasses that TOML fills (`regard.config.io`) and the checkpoint stores whole.

A recipe is data: no evaluation, no class paths. This package imports neither torch nor numpy.
"""

from regard.config.networks import DecoderConfig, EncoderConfig, VideoConfig, VolumeConfig
from regard.config.training import (
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    ObjectiveConfig,
    OptimizerConfig,
    Recipe,
    TrainingConfig,
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
