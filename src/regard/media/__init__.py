"""Media: files to pixels, pixels to network input, cells to pixels."""

from regard.media.find import find_files
from regard.media.geometry import cell_at, cell_bounds, image_grid
from regard.media.image import read_image
from regard.media.preprocess import PreprocessingSpec, covered_extent, preprocess, spec_digest

__all__ = [
    "PreprocessingSpec",
    "cell_at",
    "cell_bounds",
    "covered_extent",
    "find_files",
    "image_grid",
    "preprocess",
    "read_image",
    "spec_digest",
]
