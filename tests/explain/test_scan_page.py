"""The page of a scan in a real browser: what it shows, where words move it, and without WebGL2."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from regard.errors import ConfigError
from regard.explain.page import Explained, explanation_page
from regard.explain.scan.scan_html import MOST_VOXELS, reduced, scan_html
from regard.faithfulness.occlusion import Occlusion
from regard.media import cell_centre, world_of
from regard.types import Caption
from tests.helpers import scans
from tests.helpers.browser import Page, browsing, needs_browser
from tests.helpers.pages import Parsed, words_of

BRIGHT = np.array([10.5, -7.0, 12.5])
SOFTWARE = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
READY = "!!document.querySelector('.regard.scan.ready')"
CROSS = """(() => {
  const nv = document.querySelector('.regard.scan').regardScan;
  return [Array.from(nv.frac2mm(nv.scene.crosshairPos, 0, true)).slice(0, 3),
          Array.from(nv.scene.crosshairPos)];
})()"""
SHADES = """(() => {
  const box = document.querySelector('.regard.scan'), nv = box.regardScan;
  nv.drawScene();
  const gl = nv.gl, wide = gl.drawingBufferWidth, high = gl.drawingBufferHeight;
  const pixels = new Uint8Array(4 * wide * high);
  gl.readPixels(0, 0, wide, high, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let colourful = 0;
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4) {
    seen.add(pixels[i]);
    const [r, g, b] = pixels.subarray(i, i + 3);
    if (g !== b && g > Math.min(r, b) + 12) colourful++; // the map's colours, not the cross's
  }
  return [seen.size, colourful / (wide * high)];
})()"""


def caption(degrees: float = 20.0) -> Caption:
    scan = scans.scan(scans.image(scans.TURNS[37], degrees=degrees), name="Mustermann_Max.nii.gz")
    grid = scans.grid_of(scan, margin=-2.0)
    lesion = scans.cell_of(grid, scans.rotation(degrees) @ BRIGHT)
    looked = {"a": 3, "bright": 77, "lesion": lesion, "anywhere": None}
    return scans.scan_caption(scan, grid, looked)


def explained() -> Explained:
    made = caption()
    falls = np.random.default_rng(0).normal(0, 1, (4, *made.grid.shape))
    return Explained(made, Occlusion(falls, np.linspace(-1, 1, 4), "mean"))


def peak(made: Caption, word: int) -> tuple[float, float, float]:
    cell = int(made.words[word].alpha.argmax())
    return world_of(made.grid, cell_centre(made.grid, cell))


def shares_of(made: Caption, word: int) -> np.ndarray:
    """Where the peak lies between the scan's first and last voxel's outer borders."""
    place = cell_centre(made.grid, int(made.words[word].alpha.argmax()))
    return np.array(place)[::-1] / np.array(made.grid.source_size)[::-1]


def write(folder: Path, one: Explained) -> Path:
    file = folder / "page.html"
    file.write_text(explanation_page([one]), "utf-8")
    return file


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("scan")
    file = write(folder, explained())
    with browsing(folder, without=("--disable-gpu",), flags=SOFTWARE) as tab:
        tab.size(1000)
        tab.go(file.as_uri())
        if not tab.run("!!document.createElement('canvas').getContext('webgl2')"):
            pytest.skip("this Chromium has no WebGL2, not even in software")
        tab.until(READY)
        yield tab
        assert [text for text in tab.complaints if "readback" not in text.lower()
                and "ReadPixels" not in text] == []  # fmt: skip
        assert [url for url in tab.requested if not url.startswith(("file:", "data:"))] == []


def choose(page: Page, word: int) -> None:
    page.hover(f".regard .words button:nth-of-type({word})")
    page.until(f"document.querySelectorAll('.regard .words button')[{word - 1}]"
               ".getAttribute('aria-pressed') === 'true'")  # fmt: skip


@pytest.mark.slow
@needs_browser
def test_a_word_moves_the_cross_to_its_peak_and_paints_its_map(page: Page) -> None:
    made = caption()
    for word in (3, 2, 1):
        choose(page, word)
        world, shares = page.run(CROSS)
        np.testing.assert_allclose(world, peak(made, word - 1), atol=0.05)
        # The viewer's shares of the scan run along its own x, y and z.
        np.testing.assert_allclose(shares, shares_of(made, word - 1), atol=0.005)
        told = page.run("document.querySelector('.place').textContent")
        assert told.startswith("at (")
        shades, colourful = page.run(SHADES)
        assert shades > 20
        assert colourful > 0.002
        value = float(told.split("·")[1].split("×")[0])
        assert value > 10  # the crosshair stands on the peak
    page.key("Escape", 27)


@pytest.mark.slow
@needs_browser
def test_a_flat_map_leaves_the_cross_and_escape_takes_the_map_away(page: Page) -> None:
    choose(page, 3)
    before = page.run(CROSS)
    choose(page, 4)
    assert page.run(CROSS) == before
    assert "1.0× uniform" in page.run("document.querySelector('.place').textContent")
    page.click(".regard .words button:nth-of-type(3)")
    page.key("Escape", 27)
    page.until("!document.querySelector('.place').textContent.includes('×')")
    assert page.run(SHADES)[1] < 0.002


@pytest.mark.slow
@needs_browser
def test_keys_opacity_raw_cells_and_what_mattered(page: Page) -> None:
    page.click(".regard .words button:nth-of-type(1)")
    page.key("ArrowRight", 39)
    np.testing.assert_allclose(page.run(CROSS)[0], peak(caption(), 1), atol=0.05)
    readout = "document.querySelector('.place').textContent"
    smooth = page.run(readout)
    page.click(".regard .smooth")
    assert page.run(readout) != smooth
    np.testing.assert_allclose(float(page.run(readout).split("·")[1].split("×")[0]), 72, atol=0.1)
    page.run("(() => { const s = document.querySelector('.regard select'); s.value = 'mattered';"
             "s.dispatchEvent(new Event('change', {bubbles: true})); })()")  # fmt: skip
    assert page.run(readout).endswith("nats")
    page.run("(() => { const s = document.querySelector('.regard select'); s.value = 'map';"
             "s.dispatchEvent(new Event('change', {bubbles: true})); })()")  # fmt: skip
    colourful = page.run(SHADES)[1]
    page.run("(() => { const s = document.querySelector('.regard .opacity'); s.value = 0;"
             "s.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
    assert page.run(SHADES)[1] < colourful


@pytest.mark.slow
@needs_browser
def test_a_telephone_has_room_for_all_of_it(page: Page) -> None:
    page.size(390, 800, mobile=True)
    page.until("document.documentElement.clientWidth === 390")
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert page.run(READY)
    page.size(1000)


@pytest.mark.slow
@needs_browser
def test_without_webgl2_the_montage_stands_in(tmp_path: Path) -> None:
    file = write(tmp_path, explained())
    with browsing(tmp_path, flags=["--disable-3d-apis"]) as tab:
        tab.go(file.as_uri())
        assert not tab.run("!!document.createElement('canvas').getContext('webgl2')")
        shown = "getComputedStyle(document.querySelector('.regard.scan {}')).display"
        assert tab.run(shown.format(".still")) == "block"
        assert tab.run(shown.format(".stage")) == "none"
        assert tab.run("document.querySelector('.still img').naturalWidth") > 500
        tab.hover(".regard .words button:nth-of-type(3)")
        tab.until("document.querySelector('.regard output').textContent.includes('most at')")
        assert tab.complaints == []


def test_the_page_tells_everything_but_the_patients_name() -> None:
    text = explanation_page([explained()])
    assert "Mustermann" not in text
    parsed = Parsed(text)
    assert "Not for clinical use." in parsed.text
    assert "Radiological convention" in parsed.text
    assert "this browser has no WebGL2" in parsed.text
    words = words_of(parsed)
    assert len(words) == 4
    place = ", ".join(str(round(x)) for x in peak(caption(), 2)).replace("-", "−")
    assert f"most at ({place}) mm" in words[2]["note"]
    assert "<th scope='col'>most at</th>" in text
    assert "BSD 2-Clause" in text
    assert len(text) < 4_000_000


def test_numbers_name_places_in_the_world() -> None:
    record = explained().to_json()
    np.testing.assert_allclose(record["peaks_mm"][2], peak(caption(), 2), atol=1e-3)
    assert record["peaks_mm"][3] is None
    np.testing.assert_allclose(record["cell_mm"], [26 / 5, 28 / 4, 32 / 6], atol=1e-3)


def test_two_models_share_one_viewer() -> None:
    one = Explained(caption())
    other = Explained(replace(caption(), model="other"))
    text = explanation_page([one, other])
    assert text.count("class='voxels'") == 2
    assert text.count("globalThis||self,") == explanation_page([one]).count("globalThis||self,")


def test_a_large_scan_is_thinned_where_it_lies() -> None:
    values = np.zeros((301, 150, 211), np.float32)
    values[200:210, 30:40, 100:110] = 1000
    affine = np.diag([0.5, 0.9, 2.0, 1.0])
    affine[:3, 3] = (-70, 12, 30)
    affine[:3, :3] = scans.rotation(15) @ affine[:3, :3]
    scan = scans.scan(nibabel.Nifti1Image(values, affine))
    packed, factors = reduced(replace(scan, window=(0.0, 1000.0)))
    assert factors[2] > factors[0] == 1  # (slices, rows, cols): the finest axis gives most
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))
    assert np.prod(image.shape) <= MOST_VOXELS
    assert image.get_data_dtype() == np.uint8
    shades = np.asarray(image.dataobj, np.float64)
    centre = (np.indices(shades.shape).reshape(3, -1) * shades.ravel()).sum(1) / shades.sum()
    np.testing.assert_allclose(
        (image.affine @ [*centre, 1])[:3], (affine @ [204.5, 34.5, 104.5, 1])[:3], atol=0.3
    )


def test_a_caption_without_its_scan_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no scan"):
        scan_html(caption().without_pixels())
