"""Export of trained models as graphs that caption without torch."""

from regard.export.write_graphs import TARGETS, export_model

__all__ = ["TARGETS", "export_model"]
