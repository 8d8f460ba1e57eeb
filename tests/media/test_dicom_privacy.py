"""Nothing of the patient comes out of a DICOM file, and what others log is left as it was."""

import json
import logging
import traceback
import warnings
from pathlib import Path

import pydicom
import pytest

from regard.errors import MediaError
from regard.media.find import find_files
from regard.media.scan.scan_reader import read_scan
from tests.helpers import toys
from tests.helpers.scan_files import PLANTED, dicom, planes, saved, spec, write_series


@pytest.fixture
def everything_said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "pydicom")
    return caplog


_NUMBERS = {"slope": b"(\0S\x10DS", "frames": b"(\0\x08\0IS", "number": b" \0\x11\0IS"}
"""Tag and type of the attributes that get a name for a number."""


def planted_files(folder: Path) -> list[str]:
    """Scans that are read and scans that are refused, each full of a person's data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is planted is wrong in many ways
        return _planted_files(folder)


def _planted_files(folder: Path) -> list[str]:
    good = write_series(folder / "good", planes(4))
    hole = write_series(folder / "hole", planes(4))
    next(hole.glob("*-1")).unlink()
    two = write_series(folder / "two", planes(4))
    write_series(two, planes(3), series=2, Modality="Quillfeather")
    bad: dict[str, dict[str, object]] = {
        "slope": {"RescaleSlope": "1"},
        "frames": {"NumberOfFrames": "1"},
        "number": {},
        "no-image": {"Rows": None, "Columns": None, "PixelData": None, "Modality": "SR"},
        "no-pixels": {"PixelData": None},
        "colours": {"SamplesPerPixel": 3},
        "modality": {"Modality": "GRIMSHAW"},
    }
    single = []
    for name, attributes in bad.items():
        file = folder / f"{name}.dcm"
        content = saved(dicom(planes(1)[0], **attributes))
        # A name where a number should be: pydicom would quote it.
        if name in _NUMBERS:
            start = _NUMBERS[name]
            content = content.replace(start + b"\2\x001 ", start + b"\x08\0Ottoline")
            assert b"\0Ottoline" in content
        file.write_bytes(content)
        single.append(str(file))
    # Values that pydicom warns of and logs: a charset, a UID and a date that are none.
    odd = dicom(planes(1)[0])
    odd.SpecificCharacterSet = "Grimshaw"
    content = saved(odd).replace(b"19410228", b"Grimshaw").replace(b"1.2.3\0", b"Ottol\0")
    (folder / "odd.dcm").write_bytes(content)
    return [
        str(good),
        str(hole),
        str(two),
        f"{two}#1",
        f"{two}#2",
        *single,
        str(folder / "odd.dcm"),
    ]


def test_nothing_of_the_patient_comes_out(
    tmp_path: Path, everything_said: pytest.LogCaptureFixture
) -> None:
    """Not in names, notes, errors with all that they chain, warnings or logs at DEBUG."""
    captioner = toys.volume_captioner()
    pydicom.config.debug(True)
    said: list[str] = []
    read = 0
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            files = [*planted_files(tmp_path)]
            everything_said.clear()
            warned.clear()
            files += list(find_files([str(tmp_path)]))
            for file in files:
                try:
                    scan = captioner.encoder.read(file)
                except MediaError as error:
                    said += traceback.format_exception(error)
                    continue
                read += 1
                caption = captioner.caption(scan)
                said += [json.dumps(caption.to_json()), repr(scan), repr(caption)]
                said += [f"{field}={value}" for field, value in vars(scan).items()]
        said += [str(w.message) for w in warned]
        said += [record.getMessage() for record in everything_said.records]
    finally:
        pydicom.config.debug(False)
    assert read >= 6
    assert len(said) > 20
    everything = "\n".join(said).lower()
    for part in PLANTED:
        assert part.lower() not in everything, part


def test_readers_leave_warnings_and_logs_as_they_were(tmp_path: Path) -> None:
    logger = logging.getLogger("pydicom")
    before, level = list(warnings.filters), logger.level
    for file in planted_files(tmp_path):
        try:
            read_scan(file, spec())
        except MediaError:
            continue
    assert list(warnings.filters) == before
    assert logger.level == level
