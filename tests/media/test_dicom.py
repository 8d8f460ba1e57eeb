"""DICOM: slices where they say they lie, series told apart, damaged files refused."""

import gzip
import io
import random
import shutil
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from regard.data import load_dataset
from regard.data.check import check_dataset
from regard.errors import MediaError, MediaTooLarge, MissingExtra, RegardError
from regard.media import digest_of, medium_of
from regard.media.find import find_files, split_series
from regard.media.reader import prepare
from regard.media.scan.dicom_geometry import DicomPlane, place_slices
from regard.media.scan.scan_reader import read_scan
from tests.helpers.scan_files import dicom, enhanced, planes, saved, spec, write_series

PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
RAS = np.diag((-1.0, -1.0, 1.0, 1.0))  # from DICOM's LPS


def test_slices_are_sorted_by_place_whatever_their_names_and_numbers(tmp_path: Path) -> None:
    pixels = planes(7)
    folder = write_series(tmp_path / "s", pixels, RescaleSlope=2, RescaleIntercept=-1024)
    scan = read_scan(folder, spec("lung"))
    # LPS rows run to the left and to the back: RAS turns both round.
    np.testing.assert_array_equal(scan.pixels, pixels[:, ::-1, ::-1] * 2.0 - 1024)
    assert scan.spacing == (2, 1, 1)
    assert (scan.modality, scan.notes, scan.source_shape) == ("CT", (), (6, 5, 7))
    np.testing.assert_allclose(scan.source_affine, RAS @ [[1, 0, 0, 10], [0, 1, 0, 20],
                                                          [0, 0, 2, 30], [0, 0, 0, 1]])  # fmt: skip
    assert scan.window == (-1350, 150)
    assert scan.digest == digest_of(str(folder))
    (folder / "notes.txt").write_text("not the scan's")
    assert read_scan(folder, spec()).digest == scan.digest


@pytest.mark.parametrize("seed", range(12))
def test_a_planted_voxel_of_a_tilted_series_keeps_its_place(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    along, down = axes[0], axes[1]
    normal = np.cross(along, down)
    step = normal * draw.uniform(0.7, 4) + along * draw.uniform(-0.5, 0.5)  # a tilted gantry
    first, spacing = draw.uniform(-100, 100, 3), draw.uniform(0.5, 2, 2).round(3)
    pixels = planes(6)
    pixels[4, 1, 3] = 3000
    files = []
    for at, plane in enumerate(pixels):
        dataset = dicom(
            plane,
            position=(first + at * step).round(6),
            orientation=[*along.round(8), *down.round(8)],
            PixelSpacing=[float(v) for v in spacing],
        )
        files.append((f"{draw.integers(10**6)}.dcm", saved(dataset)))
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    scan = read_scan(tmp_path, spec())
    index = np.unravel_index(scan.pixels.argmax(), scan.pixels.shape)
    # DICOM PS3.3 C.7.6.2.1.1: rows are PixelSpacing[0] apart, columns PixelSpacing[1].
    patient = first + 4 * step + 3 * spacing[1] * along + 1 * spacing[0] * down
    world = scan.affine @ (*index, 1)
    np.testing.assert_allclose(world[:3], patient * (-1, -1, 1), atol=1e-4)


def test_an_enhanced_file_has_places_and_units_per_frame() -> None:
    pixels = planes(4)
    heights, rescales = (6, 0, 2, 4), ((1, 0), (2, -1000), (0.5, 3), (1, 7))
    dataset = enhanced(pixels, [(1, 2, z) for z in heights], rescales)
    scan = read_scan(saved(dataset), spec())
    order = [1, 2, 3, 0]
    expected = [pixels[i].astype(np.float32) * rescales[i][0] + rescales[i][1] for i in order]
    np.testing.assert_allclose(scan.pixels, np.array(expected)[:, ::-1, ::-1])
    np.testing.assert_allclose(scan.spacing, (2, 0.5, 0.75))


def test_a_real_enhanced_scan_lies_where_nibabel_says() -> None:
    """The file's own pixels are blank; its geometry is a scanner's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel warns that its DICOM readers are young
        from nibabel.nicom.dicomwrappers import wrapper_from_data
    with gzip.open(NICOM / "philips_mprage.dcm.gz") as file:
        content = file.read()
    dataset = pydicom.dcmread(io.BytesIO(content))
    frames, rows, cols = dataset.NumberOfFrames, dataset.Rows, dataset.Columns
    planted = (20, 100, 31)
    offset = 2 * int(np.ravel_multi_index(planted, (frames, rows, cols)))
    offset += content.rindex(dataset.PixelData)
    scan = read_scan(content[:offset] + b"\x64\0" + content[offset + 2 :], spec())
    index = np.unravel_index(scan.pixels.argmax(), scan.pixels.shape)
    theirs = RAS @ wrapper_from_data(dataset).affine
    # The planted frame is found by its own position, since nibabel sorts frames as it likes.
    place = dataset.PerFrameFunctionalGroupsSequence[planted[0]].PlanePositionSequence[0]
    origin = RAS[:3, :3] @ np.array(place.ImagePositionPatient, float)
    world = origin + theirs[:3, :2] @ planted[1:]
    np.testing.assert_allclose((scan.affine @ (*index, 1))[:3], world, atol=0.01)
    lengths = np.linalg.norm(theirs[:3, :3], axis=0)
    np.testing.assert_allclose(sorted(scan.spacing), sorted(lengths), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "modality", "shape"),
    [
        ("CT_small.dcm", "CT", (1, 128, 128)),
        ("MR_small.dcm", "MR", (1, 64, 64)),
        ("MR_small_RLE.dcm", "MR", (1, 64, 64)),
        ("MR_small_jp2klossless.dcm", "MR", (1, 64, 64)),
        ("MR_small_bigendian.dcm", "MR", (1, 64, 64)),
        ("MR_small_implicit.dcm", "MR", (1, 64, 64)),
        ("rtdose.dcm", "RTDOSE", (15, 10, 10)),
        ("rtdose_rle.dcm", "RTDOSE", (15, 10, 10)),
        ("image_dfl.dcm", "OT", (1, 512, 512)),
    ],
)
def test_real_files(name: str, modality: str, shape: tuple[int, ...]) -> None:
    scan = read_scan(PYDICOM / name, spec())
    assert (scan.modality, scan.pixels.shape) == (modality, shape)
    dataset = pydicom.dcmread(PYDICOM / name)
    values = np.sort(dataset.pixel_array.reshape(-1)).astype(np.float64)
    slope = dataset.get("DoseGridScaling") or dataset.get("RescaleSlope") or 1
    values = values * float(slope) + float(dataset.get("RescaleIntercept") or 0)
    np.testing.assert_allclose(np.sort(scan.pixels.reshape(-1)), values, rtol=1e-5)
    if shape[0] == 1:
        assert any(note.startswith("one slice") for note in scan.notes)
    assert prepare(scan, spec(), (2, 2, 2)).pixels.max() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MR_truncated.dcm", "cut short or damaged"),
        ("MR_small_jpeg_ls_lossless.dcm", "codec is missing. Install .*pyjpegls"),
        ("JPEG-lossy.dcm", "cannot be decompressed"),
        ("SC_rgb_jpeg.dcm", "in colour;"),
        ("examples_palette.dcm", "in colour;"),
        ("examples_ybr_color.dcm", "in colour;"),
        ("rtstruct.dcm", "of RTSTRUCT that holds no image"),
        ("reportsi.dcm", "of SR that holds no image"),
        ("waveform_ecg.dcm", "of ECG that holds no image"),
        ("badVR.dcm", "damaged"),
        ("../../tests/data/x", "cannot be opened"),
    ],
)
def test_real_files_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read_scan(PYDICOM / name, spec())


@pytest.mark.parametrize("name", ["0.dcm", "siemens_dwi_0.dcm.gz"])
def test_mosaics_are_refused(name: str) -> None:
    content = (NICOM / name).read_bytes()
    with pytest.raises(MediaError, match="is a mosaic"):
        read_scan(gzip.decompress(content) if name.endswith("gz") else content, spec())


def series(tmp_path: Path, change: dict[int, dict[str, object]], count: int = 5) -> Path:
    """A series whose slices are good but for some attributes of some."""
    for at, plane in enumerate(planes(count)):
        changes = {"position": (0, 0, 2.0 * at)} | change.get(at, {})
        dataset = dicom(plane, **changes)  # type: ignore[arg-type]
        (tmp_path / f"{at}.dcm").write_bytes(saved(dataset))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: {"position": (0, 0, 8)}}, "5 slices at 4 places: several volumes"),
        ({2: {"position": (0, 0, 5)}}, "slices at uneven distances: .* mm between slices"),
        ({4: {"position": (0, 0, 12)}}, "2 slices missing: 6 mm between slices 4 and 5"),
        ({1: {"orientation": (0, 1, 0, 0, 0, 1)}}, "2 different orientations"),
        ({1: {"position": (7, 0, 2)}}, "out of line by up to"),
        ({1: {"position": None}}, "1 of 5 slices without a position"),
        ({i: {"position": None} for i in range(5)}, "5 frames or slices without a position"),
        ({1: {"PixelSpacing": [2, 2]}}, "2 different pixel spacings"),
        ({i: {"PixelSpacing": [0, 0]} for i in range(5)}, "pixel spacing of 0 mm"),
        ({i: {"orientation": (1, 0, 0, 1, 0, 0)} for i in range(5)}, "not orthogonal unit vectors"),
        ({1: {"Rows": 6, "Columns": 5}}, "slices of 2 different sizes"),
        ({1: {"PixelData": None}}, "holds no pixels"),
        ({1: {"PixelData": b"\0" * 10}}, "cut short or damaged"),
    ],
)
def test_slices_that_make_no_volume(
    change: dict[int, dict[str, object]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MediaError, match=message):
        read_scan(series(tmp_path, change), spec())


def test_a_hole_in_the_series_is_found_wherever_it_is(tmp_path: Path) -> None:
    series(tmp_path, {}, 8)
    for gone in range(1, 7):
        folder = tmp_path / f"without {gone}"
        folder.mkdir()
        for at in range(8):
            if at != gone:
                shutil.copy(tmp_path / f"{at}.dcm", folder)
        with pytest.raises(MediaError, match=f"1 slices missing: 4 mm between slices {gone} and"):
            read_scan(folder, spec())


def test_rounded_positions_are_no_holes() -> None:
    heights = np.arange(200) * 0.6251
    some = [
        DicomPlane((0, 0, float(h)), (1, 0, 0, 0, 1, 0), (1, 1), None) for h in heights.round(2)
    ]
    random.Random(0).shuffle(some)
    order, affine, notes = place_slices(some, "x")
    assert np.diff([some[i].position[2] for i in order]).min() > 0  # type: ignore[index]
    assert abs(affine[2, 2] - 0.6251) < 1e-4
    assert notes == ()


def test_series_of_a_folder_are_told_apart(tmp_path: Path) -> None:
    write_series(tmp_path, planes(4), series=2, Modality="MR")
    write_series(tmp_path, planes(6, seed=1), series=1)
    report = dicom(planes(1)[0], Modality="SR", Rows=None, Columns=None, PixelData=None)
    (tmp_path / "report").write_bytes(saved(report))
    (tmp_path / "notes.txt").write_text("no DICOM")
    with pytest.raises(MediaError, match="holds 2 series. Name one") as caught:
        read_scan(tmp_path, spec())
    listed = f"{tmp_path}#1 is CT, 6 slices of 5×6; {tmp_path}#2 is MR, 4 slices of 5×6."
    assert str(caught.value).endswith(listed)
    second = read_scan(f"{tmp_path}#2", spec("lung"))
    assert (second.pixels.shape, second.modality) == ((4, 5, 6), "MR")
    assert "left out: 1 of SR" in second.notes[0]
    assert "this scan is MR" in second.notes[1]
    assert second.digest == digest_of(f"{tmp_path}#2") != digest_of(f"{tmp_path}#1")
    for number in (0, 3):
        with pytest.raises(MediaError, match=f"and no #{number}"):
            read_scan(f"{tmp_path}#{number}", spec())
    assert [medium_of(f"{tmp_path}{end}") for end in ("", "#1", "#9")] == ["volume"] * 3
    assert split_series(f"{tmp_path}#12") == (str(tmp_path), 12)
    assert split_series(f"{tmp_path}/gone#1") == (f"{tmp_path}/gone#1", None)


def test_a_data_set_may_name_a_series(tmp_path: Path) -> None:
    for number in (1, 2):
        write_series(tmp_path / "scans", planes(3, seed=number), series=number)
    captions = tmp_path / "captions.csv"
    captions.write_text("file,caption,split\nscans#1,a scan,train\nscans#2,a scan,val\n")
    found = load_dataset(captions, present_only=True)
    assert [Path(item.file).name for item in found] == ["scans#1", "scans#2"]
    assert not [p for p in check_dataset(captions).problems if "scans#" in str(p)]


def test_folders_become_one_path_per_series(tmp_path: Path) -> None:
    write_series(tmp_path / "b", planes(3))
    for number in range(1, 12):
        write_series(tmp_path / "a" / "in", planes(2), series=number)
    for name in ("c.png", "a/clip.mp4", "a/scan.nii.gz", "b/.hidden.dcm", "b/readme"):
        (tmp_path / name).write_bytes(b"")
    many = [f"a/in#{i}" for i in range(1, 12)]
    found = [str(Path(f).relative_to(tmp_path)) for f in find_files([str(tmp_path)])]
    assert found == ["a/clip.mp4", *many, "a/scan.nii.gz", "b", "c.png"]
    assert list(find_files([f"{tmp_path}/a/in#2"])) == [f"{tmp_path}/a/in#2"]
    lone = tmp_path / "b" / next(p.name for p in (tmp_path / "b").iterdir() if "-0" in p.name)
    assert medium_of(str(lone)) == "volume"  # without a suffix, by its bytes


def test_a_folder_of_damaged_dicom_is_one_item_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"nothing")
    assert list(find_files([str(tmp_path)])) == [str(tmp_path)]
    with pytest.raises(MediaError, match="x.dcm cannot be read as DICOM"):
        read_scan(tmp_path, spec())


def test_encrypted_files(tmp_path: Path) -> None:
    envelope = bytes.fromhex("30820a0006092a864886f70d010703a0820900") + b"\x17" * 400
    (tmp_path / "x.dcm").write_bytes(envelope)
    with pytest.raises(MediaError, match="is encrypted"):
        read_scan(tmp_path / "x.dcm", spec())
    dataset = dicom(planes(1)[0], PixelData=None)
    item = pydicom.Dataset()
    item.EncryptedContentTransferSyntaxUID = "1.2.840.10008.1.2.1"
    item.EncryptedContent = b"\1\2"
    dataset.EncryptedAttributesSequence = [item]
    with pytest.raises(MediaError, match="its attributes are encrypted"):
        read_scan(saved(dataset), spec())
    (tmp_path / "y.dcm").write_bytes(b"")
    with pytest.raises(MediaError, match="is empty"):
        read_scan(tmp_path / "y.dcm", spec())


def test_absurd_sizes_are_refused_by_the_header() -> None:
    dataset = dicom(planes(3), Rows=65535, Columns=65535)
    with pytest.raises(MediaTooLarge, match="3 slices of 65535×65535"):
        read_scan(saved(dataset), spec())
    dataset = dicom(planes(3), NumberOfFrames=2**31 - 1, Rows=1, Columns=1)
    with pytest.raises(MediaTooLarge, match="2147483647 slices"):
        read_scan(saved(dataset), spec())


def test_unknown_compression_is_refused() -> None:
    content = saved(dicom(planes(1)[0]))
    native, video = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0"
    assert native in content
    with pytest.raises(MediaError, match="compressed in a way that pydicom cannot read"):
        read_scan(content.replace(native, video), spec())


def test_inverted_shades_are_turned_round() -> None:
    pixels = planes(1)[0]
    scan = read_scan(saved(dicom(pixels, PhotometricInterpretation="MONOCHROME1")), spec())
    assert "MONOCHROME1" in scan.notes[-1]
    turned = pixels.max() + pixels.min() - pixels[::-1, ::-1].astype(np.float32)
    np.testing.assert_array_equal(scan.pixels[0], turned)


def with_odd_slice(folder: Path, pixels: np.ndarray, **attributes: object) -> Path:
    """Write a series whose second slice has other attributes."""
    write_series(folder, pixels[:1])
    for at in range(1, len(pixels)):
        own = attributes if at == 1 else {}
        dataset = dicom(
            pixels[at], position=(10, 20, 30 + 2.0 * at), SeriesInstanceUID="1.2.1", **own
        )
        (folder / str(at)).write_bytes(saved(dataset))
    return folder


def table() -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [2, 0, 16], "HU"
    item.LUTData = b"\5\0\6\0"
    return pydicom.Sequence([item])


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "photometric.*3 MONOCHROME2, 1 MONOCHROME1"),
        ({"Modality": "PT"}, "differ in their modality .3 CT, 1 PT"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"RescaleSlope": None, "RescaleIntercept": None, "ModalityLUTSequence": table()},
         "rescaling .*1 by a table"),
    ],
)  # fmt: skip
def test_a_slice_whose_values_mean_something_else_is_refused(
    tmp_path: Path, attributes: dict[str, object], says: str
) -> None:
    with pytest.raises(MediaError, match=says):
        read_scan(with_odd_slice(tmp_path / "s", planes(4), **attributes), spec())


def test_a_slice_without_a_slope_among_others_is_refused(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", planes(3), RescaleSlope=2, RescaleIntercept=-1024)
    odd = dicom(planes(1)[0], position=(10, 20, 36), SeriesInstanceUID="1.2.1",
                RescaleSlope=None, RescaleIntercept=None)  # fmt: skip
    (folder / "odd").write_bytes(saved(odd))
    with pytest.raises(MediaError, match=r"rescaling \(3 with a slope, 1 without a slope\)"):
        read_scan(folder, spec())


@pytest.mark.parametrize(
    "attributes",
    [
        {"RescaleSlope": 3, "RescaleIntercept": 7},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"WindowCenter": 40, "WindowWidth": 400},
    ],
)
def test_a_slice_with_a_slope_or_window_of_its_own_is_turned_by_them(
    tmp_path: Path, attributes: dict[str, object]
) -> None:
    pixels = planes(4)
    scan = read_scan(with_odd_slice(tmp_path / "s", pixels, **attributes), spec())
    expected = pixels[:, ::-1, ::-1].astype(np.float32)
    expected[1] = expected[1] * (attributes.get("RescaleSlope") or 1) + (
        attributes.get("RescaleIntercept") or 0
    )
    np.testing.assert_array_equal(scan.pixels, expected)


def test_damaged_files_raise_nothing_else() -> None:
    draw = np.random.default_rng(3)
    whole = np.frombuffer(saved(dicom(planes(3))), np.uint8)
    read = 0
    for _ in range(150):
        damaged = whole.copy()
        damaged[draw.integers(132, len(damaged), 5)] = draw.integers(0, 256, 5)
        cut = len(damaged) if draw.random() < 0.7 else int(draw.integers(132, len(damaged)))
        try:
            read_scan(damaged[:cut].tobytes(), spec(), max_voxels=10**5)
            read += 1
        except RegardError:
            pass
    assert read < 150


def test_without_pydicom_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_series(tmp_path / "s", planes(2))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for source in (folder, saved(dicom(planes(1)[0]))):
        with pytest.raises(MissingExtra, match=r"regard\[volume\]"):
            read_scan(source, spec())
    assert list(find_files([str(tmp_path)])) == [str(folder)]  # the item then says what it needs
