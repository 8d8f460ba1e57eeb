"""Scans made for tests: NIfTI bytes, and DICOM files whose every personal attribute is planted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from regard.media import ScanSpec

PLANTED = ("Quillfeather", "Ottoline", "Pneumothorax", "Grimshaw", "Bartholomew", "19410228")
"""Parts of a person's data in every DICOM file made here; none may ever come out."""


def spec(window: str = "percentile", **settings: Any) -> ScanSpec:
    return ScanSpec(**({"shape": (8, 8, 8), "spacing": (2.0, 2.0, 2.0)} | settings), window=window)


def voxels(shape: Sequence[int] = (6, 7, 8), seed: int = 0) -> np.ndarray:
    """(i, j, k) whole numbers from -1000 to 1000, all different kinds of them."""
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


def planes(count: int = 4, seed: int = 0) -> np.ndarray:
    """(slices, rows, cols)"""
    return voxels((count, 5, 6), seed)


def nifti(values: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return Nifti1Image(values, np.eye(4) if affine is None else affine).to_bytes()


def dicom(
    pixels: np.ndarray,
    *,
    position: Sequence[float] | None = (0, 0, 0),
    orientation: Sequence[float] | None = (1, 0, 0, 0, 1, 0),
    **attributes: Any,
) -> Dataset:
    """One CT slice, or with three axes a multi-frame file; attributes are laid over it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientName = "Quillfeather^Ottoline"
    dataset.PatientID = "Quillfeather-0417"
    dataset.PatientBirthDate = "19410228"
    dataset.StudyDescription = "Pneumothorax of O. Quillfeather"
    dataset.SeriesDescription = "Ottoline Grimshaw thorax"
    dataset.InstitutionName = "Grimshaw Hospital"
    dataset.ReferringPhysicianName = "Bartholomew"
    dataset.ImageComments = "Pneumothorax"
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.SeriesNumber = 1
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.PixelSpacing = [1, 1]
    dataset.SliceThickness = 2
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    if position is not None:
        dataset.ImagePositionPatient = [float(v) for v in position]
    if orientation is not None:
        dataset.ImageOrientationPatient = [float(v) for v in orientation]
    dataset.PixelData = pixels.astype("<i2").tobytes()
    for key, value in attributes.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    return dataset


def enhanced(
    pixels: np.ndarray,
    positions: Sequence[Sequence[float]],
    rescales: Sequence[tuple[float, float]],
    *,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
) -> Dataset:
    """An enhanced multi-frame CT: every frame has its own place and rescale."""
    dataset = dicom(pixels, position=None, orientation=None, SOPClassUID=EnhancedCTImageStorage)
    for key in ("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, key)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 2
    plane.ImageOrientationPatient = list(orientation)
    shared.PixelMeasuresSequence = Items([measures])
    shared.PlaneOrientationSequence = Items([plane])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for position, (slope, intercept) in zip(positions, rescales, strict=True):
        frame, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [float(v) for v in position]
        values.RescaleSlope, values.RescaleIntercept = slope, intercept
        frame.PlanePositionSequence = Items([place])
        frame.PixelValueTransformationSequence = Items([values])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    return dataset


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_series(
    folder: Path, pixels: np.ndarray, *, gap: float = 2.0, series: int = 1, **attributes: Any
) -> Path:
    """Write (slices, rows, cols) as one file each, named so that their order is another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for at, plane in enumerate(pixels):
        dataset = dicom(
            plane,
            position=(10, 20, 30 + gap * at),
            SeriesNumber=series,
            SeriesInstanceUID=f"1.2.{series}",
            InstanceNumber=at * 7 % 5,
            **attributes,
        )
        (folder / f"{series}-{at * 7 % 11:03d}-{at}").write_bytes(saved(dataset))
    return folder
