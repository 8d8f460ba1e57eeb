"""Training: one loop, three objectives, one saved state."""

from regard.training.logs import Reporter
from regard.training.loop import train

__all__ = ["Reporter", "train"]
