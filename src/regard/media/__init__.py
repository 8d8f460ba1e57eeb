"""Media: files to pixels, pixels to network input, cells to pixels, seconds and millimetres."""

from regard.media.find import digest_of, is_there, medium_of, medium_of_bytes
from regard.media.image import read_image
from regard.media.preprocess import ClipSpec, PreprocessingSpec, ScanSpec, Spec, preprocess
from regard.media.reader import Input, read_media, real_mask
from regard.types.media import cell_at, cell_bounds, cell_centre, places_of, world_of

__all__ = [
    "ClipSpec",
    "Input",
    "PreprocessingSpec",
    "ScanSpec",
    "Spec",
    "cell_at",
    "cell_bounds",
    "cell_centre",
    "digest_of",
    "is_there",
    "medium_of",
    "medium_of_bytes",
    "places_of",
    "preprocess",
    "read_image",
    "read_media",
    "real_mask",
    "world_of",
]
