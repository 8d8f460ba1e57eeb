"""The values that travel from a file to a caption, and the shapes they have.

Arrays are numpy arrays or torch tensors: whatever the backend holds.
"""

from __future__ import annotations

from regard.types.caption import SCHEMA_VERSION, AttentionTrace, Caption, Word
from regard.types.decoding import (
    CONTEXTS,
    Annotations,
    Array,
    DecoderState,
    Hypothesis,
    LocationChooser,
    ProjectedAnnotations,
    Ranking,
    Step,
    location_chooser,
)
from regard.types.media import Clip, Grid, Media, Scan

__all__ = [
    "CONTEXTS",
    "SCHEMA_VERSION",
    "Annotations",
    "Array",
    "AttentionTrace",
    "Caption",
    "Clip",
    "DecoderState",
    "Grid",
    "Hypothesis",
    "LocationChooser",
    "Media",
    "ProjectedAnnotations",
    "Ranking",
    "Scan",
    "Step",
    "Word",
    "location_chooser",
]
