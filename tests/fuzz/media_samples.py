"""Small intact media of every mutated kind: 32 to 64 pixels, few frames, few voxels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Writer = Callable[[], bytes]


def write_media_samples(folder: Path) -> None:
    """Write all samples as KIND-NAME.SUFFIX; the same library versions write the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in (_pictures() | _clips() | _scans() | _slices()).items():
            (folder / name).write_bytes(content)


def _picture(mode: str = "RGB", size: tuple[int, int] = (48, 40), seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    if mode in ("RGBA", "LA"):
        smooth = smooth.convert("RGB")
        smooth.putalpha(Image.linear_gradient("L").resize(size))
        return smooth.convert(mode)
    if mode == "I;16":
        grey = np.asarray(smooth.convert("L"), np.uint16) * 257
        return Image.fromarray(grey)
    return smooth.convert(mode)


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _pictures() -> dict[str, bytes]:
    more = [_picture(seed=i) for i in (1, 2)]
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    found = {
        "jpeg-plain.jpg": _saved(_picture(), "JPEG", exif=exif, comment=b"words"),
        "jpeg-progressive.jpg": _saved(_picture(), "JPEG", progressive=True, quality=60),
        "jpeg-cmyk.jpg": _saved(_picture("CMYK"), "JPEG"),
        "jpeg-grey.jpg": _saved(_picture("L"), "JPEG", restart_marker_blocks=2),
        "png-rgb.png": _saved(_picture(), "PNG", exif=exif, dpi=(72, 72)),
        "png-palette.png": _saved(_picture("P"), "PNG", transparency=3),
        "png-alpha.png": _saved(_picture("LA"), "PNG"),
        "png-16.png": _saved(_picture("I;16"), "PNG"),
        "png-moving.png": _saved(_picture(), "PNG", save_all=True, append_images=more),
        "webp-lossy.webp": _saved(_picture(), "WEBP", exif=exif),
        "webp-lossless.webp": _saved(_picture("RGBA"), "WEBP", lossless=True),
        "webp-moving.webp": _saved(_picture(), "WEBP", save_all=True, append_images=more),
        "gif-still.gif": _saved(_picture("P"), "GIF", transparency=2),
        "gif-moving.gif": _saved(_picture(), "GIF", save_all=True, append_images=more, loop=0),
        "tiff-pages.tif": _saved(_picture(), "TIFF", save_all=True, append_images=more),
        "tiff-16.tif": _saved(_picture("I;16"), "TIFF"),
        "tiff-float.tif": _saved(_picture("L").convert("F"), "TIFF"),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        mode = "1" if compression == "group4" else "RGB"
        content = _saved(_picture(mode), "TIFF", compression=compression, exif=exif)
        found[f"tiff-{compression}.tif"] = content
    return found


def _clips() -> dict[str, bytes]:
    return {
        "mp4-h264.mp4": _clip("mp4", "libx264", {"preset": "ultrafast", "bf": "1"}),
        "mp4-mpeg4.mp4": _clip("mp4", "mpeg4", {}),
        "mp4-pieces.mp4": _clip("mp4", "libx264", {}, movflags="frag_keyframe+empty_moov"),
        "avi-mpeg4.avi": _clip("avi", "mpeg4", {}),
        "avi-mjpeg.avi": _clip("avi", "mjpeg", {}),
    }


def _clip(container: str, codec: str, options: dict[str, str], **muxing: str) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=muxing) as file:
        stream: Any = file.add_stream(codec, rate=10, options=options | {"threads": "1"})
        stream.width, stream.height = 48, 32
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.thread_count = 1
        for i in range(8):
            pixels = np.asarray(_picture(size=(48, 32), seed=i // 3))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def _voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (10, 9, 8)).astype(np.int16)


def _scans() -> dict[str, bytes]:
    import gzip

    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    oblique = np.array([[2, 0.1, 0, 5], [-0.1, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    plain = Nifti1Image(_voxels(), np.eye(4))
    plain.header["scl_slope"], plain.header["scl_inter"] = 2, 1
    plain.header.set_xyzt_units("mm")
    of_floats = Nifti1Image(_voxels().astype(np.float32), oblique)
    newer = Nifti2Image(_voxels().astype(np.uint8), oblique)
    return {
        "nifti-int16.nii": plain.to_bytes(),
        "nifti-float.nii": of_floats.to_bytes(),
        "nifti-second.nii": newer.to_bytes(),
        "nifti-zipped.nii.gz": gzip.compress(of_floats.to_bytes(), mtime=0),
    }


def _slices() -> dict[str, bytes]:
    from pydicom.pixels.utils import compress
    from pydicom.uid import RLELossless

    pixels = _voxels()[0]
    packed = _slice(pixels)
    compress(packed, RLELossless)
    return {
        "dicom-slice.dcm": _written(_slice(pixels)),
        "dicom-frames.dcm": _written(_frames(_voxels())),
        "dicom-packed.dcm": _written(packed),
    }


def _slice(pixels: np.ndarray) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = UID("1.2.3.4")
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "CT", "1.2.3", 1
    made.Rows, made.Columns = pixels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.PixelSpacing, made.SliceThickness = [1, 1], 2
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    made.RescaleSlope, made.RescaleIntercept = 1, -24
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    made.PixelData = pixels.astype("<i2").tobytes()
    return made


def _frames(pixels: np.ndarray) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    made = _slice(pixels)
    del made.ImagePositionPatient, made.ImageOrientationPatient, made.PixelSpacing
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 2
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([plane])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    places: list[Any] = []
    for i in range(len(pixels)):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [0.0, 0.0, 2.0 * i]
        frame.PlanePositionSequence = Sequence([place])
        places.append(frame)
    made.PerFrameFunctionalGroupsSequence = Sequence(places)
    return made


def _written(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
