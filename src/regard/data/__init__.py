"""Data sets: captions and pictures from files, checks, stored annotations."""

from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.data.formats import load_dataset
from regard.data.store import AnnotationStore, StoreKey

__all__ = ["AnnotationStore", "CaptionDataset", "CaptionedItem", "StoreKey", "load_dataset"]
