"""The values on the way from a file to a caption, and their shapes.

Arrays are numpy arrays or torch tensors: whatever the backend holds.
"""

from __future__ import annotations

from regard.types.caption import SCHEMA_VERSION, AttentionTrace, Caption, Word
from regard.types.decoding import (
    Annotations,
    Array,
    DecoderState,
    Hypothesis,
    ProjectedAnnotations,
    Step,
    WordRanking,
)
from regard.types.media import MEDIA, Clip, Grid, Media, Medium, Scan

__all__ = [
    "MEDIA",
    "SCHEMA_VERSION",
    "Annotations",
    "Array",
    "AttentionTrace",
    "Caption",
    "Clip",
    "DecoderState",
    "Grid",
    "Hypothesis",
    "Media",
    "Medium",
    "ProjectedAnnotations",
    "Scan",
    "Step",
    "Word",
    "WordRanking",
]
