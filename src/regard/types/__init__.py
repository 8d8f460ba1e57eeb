"""The values that flow from a file to a caption, and their shapes.

Arrays are numpy arrays or torch tensors: whatever the backend holds.
"""

from regard.types.caption import SCHEMA_VERSION, AttentionTrace, Caption, Word
from regard.types.decoding import (
    CONTEXTS,
    Annotations,
    Array,
    DecoderState,
    Hypothesis,
    LocationChooser,
    ProjectedAnnotations,
    Step,
    WordRanking,
    location_chooser,
)
from regard.types.media import MEDIA, Clip, Grid, Media, Scan

__all__ = [
    "CONTEXTS",
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
    "LocationChooser",
    "Media",
    "ProjectedAnnotations",
    "Scan",
    "Step",
    "Word",
    "WordRanking",
    "location_chooser",
]
