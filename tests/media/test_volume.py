"""Scans from NIfTI files and arrays: canonical, in their own place, or one clear error."""

import contextlib
import gzip
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import MediaError, MediaTooLarge, MissingExtra, UnknownMedia
from regard.media import digest_of, medium_of, read_media
from regard.media.reader import prepare
from regard.media.scan.scan_reader import read_scan
from regard.types import Scan
from tests.helpers.scan_files import nifti, spec, voxels

NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
NILEARN = Path(nilearn.__file__).parent / "datasets" / "data"


def affines() -> Iterator[np.ndarray]:
    """All 48 ways to store a scan, each with its own spacing, tilt, shear and origin."""
    draw = np.random.default_rng(7)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.eye(3)[:, order] * signs
            for shear in (np.eye(3), np.eye(3) + draw.uniform(-0.15, 0.15, (3, 3))):
                affine = np.eye(4)
                affine[:3, :3] = shear @ matrix * draw.uniform(0.5, 4, 3)
                affine[:3, 3] = draw.uniform(-150, 150, 3)
                yield affine


def at(affine: np.ndarray, index: object) -> np.ndarray:
    return affine[:3, :3] @ np.asarray(index, float) + affine[:3, 3]


def brightest(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    index = np.array(np.unravel_index(scan.pixels.argmax(), scan.pixels.shape))
    return index, at(scan.affine, index)


@pytest.mark.parametrize("affine", list(affines()))
def test_a_planted_voxel_keeps_its_place_in_the_world(affine: np.ndarray) -> None:
    values, planted = voxels((5, 6, 7)), (1, 4, 2)
    values[planted] = 3000
    scan = read_scan(nifti(values, affine), spec())
    stored = nibabel.Nifti1Image.from_bytes(nifti(values, affine)).affine  # as float32
    index, world = brightest(scan)
    np.testing.assert_allclose(world, at(stored, planted), atol=1e-4)
    np.testing.assert_array_equal(scan.source_affine, stored)
    assert scan.source_shape == (5, 6, 7)
    # Canonical: slices run up, rows to the front, cols to the right.
    directions = scan.affine[:3, :3]
    assert [int(np.abs(directions[:, a]).argmax()) for a in range(3)] == [2, 1, 0]
    assert (directions[[2, 1, 0], [0, 1, 2]] > 0).all()
    # Back to the file's own voxel by the two affines alone: a heat map is written so.
    own = np.linalg.inv(scan.source_affine) @ scan.affine @ (*index, 1)
    np.testing.assert_allclose(own[:3], planted, atol=1e-4)
    np.testing.assert_allclose(sorted(scan.spacing), sorted(np.linalg.norm(stored[:3, :3], axis=0)))


@pytest.mark.parametrize(
    "file",
    [
        NIBABEL / "anatomical.nii",
        NIBABEL / "standard.nii.gz",
        NIBABEL / "reoriented_anat_moved.nii",
        NILEARN / "image_10426.nii.gz",
        NILEARN / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    ],
    ids=lambda path: path.name,
)
def test_real_scans_are_what_nibabel_says_they_are(file: Path) -> None:
    scan = read_scan(file, spec())
    image = nibabel.load(file)
    oriented = nibabel.as_closest_canonical(image)
    np.testing.assert_allclose(
        scan.pixels, oriented.get_fdata().transpose(2, 1, 0), rtol=1e-5, atol=1e-3
    )
    np.testing.assert_allclose(scan.affine[:, [2, 1, 0, 3]], oriented.affine)
    np.testing.assert_allclose(scan.source_affine, image.affine)
    assert (scan.source_shape, scan.name) == (image.shape, str(file))
    assert scan.digest == digest_of(str(file))
    assert medium_of(str(file)) == "volume"


def test_the_template_brain_lies_where_atlases_say() -> None:
    """World (0, 0, 0) is the anterior commissure, inside the head; (0, 0, 200) is above it."""
    scan = read_scan(NILEARN / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", spec())
    head = scan.pixels > scan.window[0]
    x, y, z = at(scan.affine, np.array(np.nonzero(head)).mean(1))
    assert abs(x) < 3  # symmetric between left and right
    assert -35 < y < 0  # more brain lies behind the commissure than before it
    assert 0 < z < 25


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_type_of_voxel_and_its_slope(dtype: type) -> None:
    values = (voxels() % 200).astype(dtype)
    plain = read_scan(nifti(values), spec())
    np.testing.assert_array_equal(plain.pixels, values.transpose(2, 1, 0))
    image = nibabel.Nifti1Image(values, np.eye(4))
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([0.5, -1024], "<f4").tobytes()  # scl_slope, scl_inter
    scaled = read_scan(bytes(content), spec())
    np.testing.assert_allclose(scaled.pixels, values.transpose(2, 1, 0) * 0.5 - 1024)
    assert scaled.pixels.dtype == np.float32


def test_bytes_paths_images_and_gzip_are_one(tmp_path: Path) -> None:
    content = nifti(voxels())
    file = tmp_path / "a.nii.gz"
    file.write_bytes(gzip.compress(content))
    image = nibabel.Nifti1Image.from_bytes(content)
    read = [read_scan(s, spec()) for s in (file, content, gzip.compress(content), image)]
    for scan in read:
        np.testing.assert_array_equal(scan.pixels, read[0].pixels)
    assert read[0].digest == read[2].digest == digest_of(str(file)) != read[1].digest
    assert [scan.name for scan in read] == [str(file), "<bytes>", "<bytes>", "<image>"]
    assert read_scan(content, spec(), name="x").name == "x"


def test_an_array_is_taken_as_it_lies() -> None:
    values = voxels()
    scan = read_scan(values, spec())
    np.testing.assert_array_equal(scan.pixels, values)
    np.testing.assert_array_equal(scan.affine[:, [2, 1, 0, 3]], np.eye(4))
    assert (scan.source_shape, scan.name) == (values.shape[::-1], "<array>")
    assert "without affine" in scan.notes[0]
    for wrong in (np.zeros((3, 4)), np.zeros((2, 3, 4), complex), np.zeros((0, 3, 4)), object()):
        with pytest.raises(MediaError, match="<array>"):
            read_scan(wrong, spec())
    with pytest.raises(MediaTooLarge, match="at most 10"):
        read_scan(values, spec(), max_voxels=10)


def test_a_scan_of_the_users_own_passes_through() -> None:
    scan = Scan("volume", voxels().astype(np.float32), "mine", "", affine=np.diag((2, 3, 4, 1)))
    assert read_media(scan, spec()) is scan
    assert prepare(scan, spec(), (2, 2, 2)).pixels.shape == (1, 8, 8, 8)


def test_one_slice_is_a_volume_of_one_slice() -> None:
    for values in (voxels((6, 7, 1)), voxels((6, 7))):
        scan = read_scan(nifti(values), spec())
        assert scan.pixels.shape == (1, 7, 6)
        assert prepare(scan, spec(), (2, 2, 2)).pixels.max() > 0.5
    assert "one slice" in scan.notes
    trailing = nifti(voxels((6, 7, 8))[..., None])
    assert read_scan(trailing, spec()).pixels.shape == (8, 7, 6)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii"])
def test_several_volumes_are_refused_with_advice(name: str) -> None:
    with pytest.raises(MediaError, match=r"volumes .*slicer\[\.\.\., 0\]"):
        read_scan(NIBABEL / name, spec())


def test_voxels_that_are_no_numbers() -> None:
    values = voxels().astype(np.float32)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    scan = read_scan(nifti(values), spec())
    assert scan.pixels[0, 0, 0] == scan.pixels[2, 0, 0] == values[np.isfinite(values)].min()
    assert "3 voxels that are no numbers" in scan.notes[0]
    with pytest.raises(MediaError, match="has no finite voxel"):
        read_scan(nifti(np.full((4, 4, 4), np.nan, np.float32)), spec())


def test_constant_scans_are_refused() -> None:
    with pytest.raises(MediaError, match="the value 7 in every voxel"):
        read_scan(nifti(np.full((4, 4, 4), 7, np.int16)), spec())


def broken_affine(**changes: float) -> np.ndarray:
    affine = np.diag((2.0, 2.0, 2.0, 1.0))
    for key, value in changes.items():
        affine[int(key[1]), int(key[2])] = value
    return affine


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (broken_affine(a00=np.nan), "not finite"),
        (broken_affine(a03=np.inf), "not finite"),
        (broken_affine(a00=0), "singular affine"),
        (broken_affine(a00=0, a10=2), "singular affine"),
        (broken_affine(a00=0, a11=0, a22=0), "singular affine"),
    ],
)
def test_wrong_affines(affine: np.ndarray, message: str) -> None:
    image = nibabel.Nifti1Image(voxels(), np.eye(4))
    content = bytearray(image.to_bytes())
    content[280:328] = affine[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
    content[254:256] = np.array([1], "<i2").tobytes()  # sform_code
    with pytest.raises(MediaError, match=message):
        read_scan(bytes(content), spec())


def test_a_file_that_says_nothing_of_its_place() -> None:
    content = bytearray(nifti(voxels()))
    content[252:256] = bytes(4)  # qform_code, sform_code
    scan = read_scan(bytes(content), spec())
    assert "no sform and no qform" in scan.notes[0]
    # NIfTI's own rule for such files, and nibabel's: the first axis runs to the left.
    assert scan.source_affine[0, 0] < 0


@pytest.mark.parametrize(("unit", "millimetres"), [("meter", 1000.0), ("micron", 0.001)])
def test_lengths_in_other_units_become_millimetres(unit: str, millimetres: float) -> None:
    affine = np.diag((2.0, 2.0, 3.0, 1.0))
    affine[:3, 3] = -90, 40, 12.5  # of the first voxel: its place has the file's unit too
    stored = affine.copy()
    stored[:3] /= millimetres
    values, planted = voxels((5, 6, 7)), (1, 4, 2)
    values[planted] = 3000
    image = nibabel.Nifti1Image(values, stored)
    image.header.set_xyzt_units(unit)
    scan = read_scan(image.to_bytes(), spec())
    np.testing.assert_allclose(scan.spacing, (3, 2, 2), rtol=1e-6)
    np.testing.assert_allclose(scan.source_affine, affine, rtol=1e-6)
    np.testing.assert_allclose(brightest(scan)[1], at(affine, planted), rtol=1e-6)
    assert f"{unit}s" in scan.notes[0]


def test_absurd_sizes_are_refused_before_anything_is_allocated() -> None:
    content = bytearray(nifti(voxels()))
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    for source in (bytes(content), gzip.compress(bytes(content))):
        with pytest.raises(MediaTooLarge, match="32767×32767×32767"):
            read_scan(source, spec())
    with pytest.raises(MediaTooLarge, match="at most 335 in a volume"):
        read_scan(nifti(voxels()), spec(), max_voxels=335)
    content[42:48] = np.array([-5, 0, 3], "<i2").tobytes()
    with pytest.raises(MediaError):
        read_scan(bytes(content), spec())


@pytest.mark.timeout(20)
def test_a_zip_bomb_is_not_unpacked() -> None:
    content = bytearray(nifti(voxels()))
    content[108:112] = np.array([1e9], "<f4").tobytes()  # vox_offset
    bomb = gzip.compress(bytes(content) + bytes(2**26))
    with pytest.raises(MediaError, match="voxel offset 1e\\+09"):
        read_scan(bomb, spec())
    content[108:112] = np.array([np.nan], "<f4").tobytes()
    with pytest.raises(MediaError, match="voxel offset nan"):
        read_scan(bytes(content), spec())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"no scan at all", "neither NIfTI"),
        (b"\x1f\x8b broken gzip", "cut short or damaged"),
        (nifti(voxels())[:400], "cut short or damaged"),
        (gzip.compress(nifti(voxels()))[:300], "cut short or damaged"),
        ((NIBABEL / "nifti1.hdr").read_bytes(), "header of a pair"),
    ],
)
def test_what_is_no_scan(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.nii"
    file.write_bytes(content)
    for source in (content, file):
        with pytest.raises(MediaError, match=message):
            read_scan(source, spec())


def test_colours_and_complex_numbers_are_refused() -> None:
    colours = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(MediaError, match="holds colours"):
        read_scan(nifti(colours), spec())
    with pytest.raises(MediaError, match="complex64"):
        read_scan(nifti(np.zeros((4, 4, 4), np.complex64)), spec())


def test_missing_files(tmp_path: Path) -> None:
    for name in ("gone.nii", "gone.dcm", "gone"):
        with pytest.raises(MediaError, match="cannot be opened"):
            read_scan(tmp_path / name, spec())
    with pytest.raises(MediaError, match="without a picture, clip or scan in it"):
        read_scan(tmp_path, spec())
    with pytest.raises(MediaError, match="null"):
        read_scan("a\0.nii", spec())
    with pytest.raises(UnknownMedia):
        read_scan(b"x" * 400, spec())


@given(st.binary(max_size=6), st.integers(0, 351))
def test_damaged_headers_raise_nothing_else(damage: bytes, where: int) -> None:
    content = bytearray(nifti(voxels()))
    content[where : where + len(damage)] = damage
    with contextlib.suppress(MediaError):
        scan = read_scan(bytes(content), spec(), max_voxels=10_000)
        assert np.isfinite(prepare(scan, spec(), (2, 2, 2)).pixels).all()


def test_without_nibabel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = nifti(voxels())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtra, match=r"regard\[volume\]"):
        read_scan(content, spec())


def test_nibabel_writes_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    whole = nifti(voxels())
    for _ in range(100):
        damaged = bytearray(whole)
        for place in draw.integers(4, 340, 3):
            damaged[place] = int(draw.integers(256))
        with contextlib.suppress(MediaError):
            read_scan(bytes(damaged), spec())
    assert capfd.readouterr().err == ""
