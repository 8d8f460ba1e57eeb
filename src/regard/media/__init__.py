"""Media: files to pixels, pixels to network input, cells to pixels, seconds and millimetres."""

from regard.media.find import digest_of, find_files, is_there, medium_of, medium_of_bytes
from regard.media.geometry import cell_at, cell_bounds, cell_centre, places_of, world_of
from regard.media.image import read_image
from regard.media.preprocess import (
    ClipSpec,
    PreprocessingSpec,
    ScanSpec,
    Spec,
    preprocess,
    preprocess_pixels,
)
from regard.media.reader import Input, image_grid, prepare, read_media, real_mask, scan_grid

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
    "find_files",
    "image_grid",
    "is_there",
    "medium_of",
    "medium_of_bytes",
    "places_of",
    "prepare",
    "preprocess",
    "preprocess_pixels",
    "read_image",
    "read_media",
    "real_mask",
    "scan_grid",
    "world_of",
]
