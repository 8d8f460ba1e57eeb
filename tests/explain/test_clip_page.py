"""The page of a clip in a real browser: words seek, the overlay moves, the strip answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regard.explain.clip.player import _ticks
from regard.explain.html import caption_html
from regard.explain.page import Explanation, explanation_page
from regard.faithfulness.occlusion import Occlusion
from regard.media.video.video_reader import read_clip
from regard.types import Caption
from tests.helpers import filmed
from tests.helpers.browser import Page, browsing, needs_browser
from tests.helpers.clips import clip_bytes, spec
from tests.helpers.pages import Parsed, words_of

pytest.importorskip("av")

FRAMES, RATE, READ = 60, 20, 6
WORDS = ("a", "dog", "runs", "away")
PEAKS = (5, 1, 3, None)
SHOWN = (
    "[...document.querySelectorAll('.regard button[data-word]')]"
    ".findIndex(b => b.getAttribute('aria-pressed') === 'true')"
)
TIME = "document.querySelector('video').currentTime"
FRAME = "Number(document.querySelector('.regard').dataset.frame)"
MAP = """(() => {
  const canvas = document.querySelector('figure canvas');
  const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return [...all].filter((_, i) => i % 4 === 3);
})()"""
# The number that is painted on the frame that the video shows (see `clips.painted`).
NUMBER = """(() => {
  const video = document.querySelector('video'), canvas = document.createElement('canvas');
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const pen = canvas.getContext('2d');
  pen.drawImage(video, 0, 0);
  let number = 0, bit = 0;
  for (let row = 0; row < 4; row++) for (let col = 0; col < 4; col++) {
    if ([0, 3].includes(row) && [0, 3].includes(col)) continue;
    const x = (col + .5) * canvas.width / 4, y = (row + .5) * canvas.height / 4;
    number |= (pen.getImageData(x, y, 1, 1).data[0] > 127) << bit++;
  }
  return number;
})()"""


def made(folder: Path, *, rows: int) -> Explanation:
    """A caption of a clip with painted numbers; each word looks at one of six frames most."""
    file = folder / "clip.mp4"
    file.write_bytes(clip_bytes(FRAMES, rate=RATE))
    clip = read_clip(file, spec(READ))
    grid = filmed.spatial(clip, rows, rows, READ + 2) if rows else filmed.temporal(clip, READ + 2)
    cells = max(1, rows * rows)
    alpha = np.zeros((len(WORDS), grid.shape[0], cells))
    for t, peak in enumerate(PEAKS):
        alpha[t, :READ] = (1 if peak is None else 0.4) / READ / cells
        if peak is not None:
            alpha[t, peak, peak % cells] += 0.6
    caption = filmed.caption(WORDS, alpha=alpha.reshape(len(WORDS), -1), clip=clip, grid=grid)
    falls = np.random.default_rng(0).normal(0, 1, (len(WORDS), READ))
    return Explanation(caption, Occlusion(falls, np.linspace(-1, 1, len(WORDS)), "mean", "frame"))


@pytest.fixture(scope="module", params=[2, 0], ids=["spatio-temporal", "temporal"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Page, Caption, int]]:
    folder = tmp_path_factory.mktemp("clip")
    explained = made(folder, rows=request.param)
    file = folder / "page.html"
    file.write_text(explanation_page([explained]), "utf-8")
    with browsing(folder) as tab:
        tab.go(file.as_uri())
        tab.until("document.querySelector('video').readyState === 4")
        yield tab, explained.caption, request.param
        # The test itself reads canvases back, of which the browser disapproves.
        assert [text for text in tab.complaints if "readback" not in text] == []
        assert [url for url in tab.requested if not url.startswith(("file:", "data:"))] == []


def number_of_read(frame: int) -> int:
    """The number painted on a frame that was read: the middle of its chunk."""
    return frame * FRAMES // READ + FRAMES // READ // 2


def settled(page: Page, frame: int, caption: Caption) -> None:
    """Wait until the video shows a frame that was read, and see that it does."""
    time = caption.grid.shown[frame]
    page.until(
        f"!document.querySelector('video').seeking && Math.abs({TIME} - {time}) < {1 / RATE}"
    )
    page.until(f"{NUMBER} === {number_of_read(frame)}", f"frame {number_of_read(frame)}")
    assert page.run(FRAME) == frame


def point(page: Page, t: int, *, of: int = 1) -> None:
    """Move the pointer onto a word of the first model, or of another, from beside it."""
    page.mouse("mouseMoved", 1, 1)
    page.hover(f"section:nth-of-type({of}) button[data-word]:nth-of-type({t + 1})")


@pytest.mark.slow
@needs_browser
def test_pointing_at_a_word_seeks_to_its_moment(opened: tuple[Page, Caption, int]) -> None:
    page, caption, _ = opened
    for t, peak in enumerate(PEAKS):
        point(page, t)
        page.until(f"{SHOWN} === {t}")
        settled(page, 0 if peak is None else peak, caption)
        marked = page.run("[...document.querySelectorAll('.shot.peak')].map(s => s.dataset.frame)")
        assert marked == [str(0 if peak is None else peak)]
        heights = page.run(
            "[...document.querySelectorAll('.shot .weight b')].map(b => parseFloat(b.style.height))"
        )
        weights = np.full(READ, 1.0) if peak is None else np.full(READ, 0.4)
        if peak is not None:
            weights[peak] += 0.6 * READ
        np.testing.assert_allclose(np.array(heights) / 100, weights / 4.0, atol=0.01)


@pytest.mark.slow
@needs_browser
def test_the_overlay_moves_with_the_clip(opened: tuple[Page, Caption, int]) -> None:
    page, caption, rows = opened
    point(page, 1)
    settled(page, 1, caption)
    page.run("(() => { const s = document.querySelector('.smooth'); if (s) { s.checked = false;"
             "s.dispatchEvent(new Event('change', {bubbles: true})); } })()")  # fmt: skip
    settled(page, 1, caption)  # raw cells are drawn, and the moment stays
    seen = {}
    for frame in range(READ):
        start, stop = caption.grid.spans[frame]
        moment = (start + 2 * stop) / 3
        page.run(f"(() => {{ const s = document.querySelector('.seek'); s.value = {moment};"
                 "s.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
        page.until(f"{FRAME} === {frame}")
        seen[frame] = page.run(MAP)
        assert page.run(SHOWN) == 1  # sliding chooses no other word and leads to no peak
        assert abs(page.run(TIME) - moment) < 1 / RATE
    assert bool(rows) == page.run("document.querySelector('.opacity').offsetParent !== null")
    assert page.run("document.querySelectorAll('.bar').length") == (2 if rows else 1)
    shown = page.run("getComputedStyle(document.querySelector('figure canvas')).visibility")
    assert shown == ("visible" if rows else "hidden")
    if rows:
        assert np.argmax(seen[1]) == 1
        assert max(seen[1]) > 5 * max(seen[0])
    assert all(seen[f] == seen[0] for f in (2, 3, 4, 5))
    gauge = "parseFloat(document.querySelector('.gauge b').style.width)"
    assert page.run(gauge) == pytest.approx(10, abs=1)  # 0.4 of at most 4 times uniform


@pytest.mark.slow
@needs_browser
def test_the_film_plays_and_the_map_follows(opened: tuple[Page, Caption, int]) -> None:
    page, caption, _ = opened
    point(page, 1)
    settled(page, 1, caption)
    page.run("document.querySelector('.run').click()")
    page.until(f"{FRAME} >= 3", "the clip plays on")
    point(page, 2)  # a word stops it at its moment
    settled(page, 3, caption)
    assert page.run("document.querySelector('video').paused")


@pytest.mark.slow
@needs_browser
def test_keys_go_through_words_and_frames(opened: tuple[Page, Caption, int]) -> None:
    page, caption, _ = opened
    page.run("document.querySelector('.regard button[data-word]').focus()")
    settled(page, 5, caption)
    page.key("ArrowRight", 39)
    page.until(f"{SHOWN} === 1")
    settled(page, 1, caption)
    page.key("Escape", 27)
    page.until(f"{SHOWN} === -1")
    visible = "getComputedStyle(document.querySelector('figure canvas')).visibility"
    assert page.run(visible) == "hidden"
    assert page.run("document.querySelectorAll('.shot.peak').length") == 0
    page.run("document.querySelector('.shot').focus()")
    page.key("End", 35)
    settled(page, READ - 1, caption)
    page.key("ArrowLeft", 37)
    settled(page, READ - 2, caption)
    assert page.run("document.querySelectorAll('.shot[tabindex=\"0\"]').length") == 1


@pytest.mark.slow
@needs_browser
def test_a_frame_and_a_moment_say_who_looked(opened: tuple[Page, Caption, int]) -> None:
    page, caption, _ = opened
    page.click(".shot[data-frame='3']")
    settled(page, 3, caption)
    told = page.run("[...document.querySelectorAll('.there span')].map(s => s.textContent)")
    assert told == ["runs 4.00×", "away 1.00×", "a 0.40×", "dog 0.40×"]
    x, y = page.run(
        "(() => { const f = document.querySelector('.field'); f.scrollIntoView({block: 'center'});"
        "const b = f.getBoundingClientRect();"
        f"return [b.left + b.width * {5.5 / READ}, b.top + b.height * .1]; }})()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, x, y, held=kind == "mousePressed")
    settled(page, 5, caption)
    assert page.run(SHOWN) == 0  # the row that was pressed
    assert page.run("document.querySelector('.there span').textContent") == "a 4.00×"


@pytest.mark.slow
@needs_browser
def test_what_mattered_is_shown_in_nats(opened: tuple[Page, Caption, int]) -> None:
    page, _, _ = opened
    point(page, 1)
    drawn = "document.querySelector('.heat canvas').toDataURL()"
    looked = page.run(drawn)
    choose = (
        "(() => {{ const s = document.querySelector('.regard select'); s.value = '{}';"
        "s.dispatchEvent(new Event('change', {{bubbles: true}})); }})()"
    )
    page.run(choose.format("mattered"))
    assert page.run(drawn) != looked
    assert page.run("document.querySelector('.legend .top').textContent").endswith("nats")
    page.run(choose.format("map"))
    assert page.run(drawn) == looked


@pytest.mark.slow
@needs_browser
def test_it_fits_a_telephone_and_the_dark(opened: tuple[Page, Caption, int]) -> None:
    page, _, rows = opened
    shots = Path("build/screenshots")
    for width, dark in ((1280, False), (390, False), (390, True)):
        page.size(width, mobile=width < 500)
        page.dark(dark)
        assert page.run("document.documentElement.scrollWidth") <= width
        page.screenshot(shots / f"clip-{rows}-{width}{'-dark' if dark else ''}.png")
    page.size(1280)
    page.dark(False)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser")) as page:
        page.size(1280)
        yield page
        assert page.complaints == []


@pytest.mark.slow
@needs_browser
def test_without_a_film_the_frames_stand_in(tmp_path: Path, tab: Page) -> None:
    explained = made(tmp_path, rows=2)
    (tmp_path / "clip.mp4").unlink()
    file = tmp_path / "tab.html"
    page_ = explanation_page([explained])
    assert "<video" not in page_
    file.write_text(page_, "utf-8")
    tab.go(file.as_uri())
    fault = tab.run("document.querySelector('.fault').textContent")
    assert "no longer exists, or has changed" in fault
    assert "shown instead" in fault
    still = "document.querySelector('.still').src"
    for t, peak in ((0, 5), (1, 1)):
        point(tab, t)
        tab.until(f"{FRAME} === {peak}")
        shot = f"document.querySelector('.shot[data-frame=\"{peak}\"] img').src"
        assert tab.run(f"{still} === {shot}")


@pytest.mark.slow
@needs_browser
def test_a_film_that_the_browser_cannot_play_gives_way_to_the_frames(
    tmp_path: Path, tab: Page
) -> None:
    page_ = explanation_page([made(tmp_path, rows=2)])
    start = page_.index("data:video/mp4;base64,") + len("data:video/mp4;base64,")
    stop = page_.index("'", start)
    file = tmp_path / "tab.html"
    file.write_text(page_[:start] + "AAAA" + page_[stop:], "utf-8")
    tab.go(file.as_uri())
    tab.until("!document.querySelector('.still').hidden")
    point(tab, 1)
    tab.until(f"{FRAME} === 1")
    assert "cannot play" in tab.run("document.querySelector('.fault').textContent")


@pytest.mark.slow
@needs_browser
def test_two_models_share_one_film(tmp_path: Path, tab: Page) -> None:
    one = made(tmp_path, rows=2)
    other = Explanation(replace(one.caption, model="other"))
    page_ = explanation_page([one, other])
    assert page_.count("data:video/mp4") == 1
    file = tmp_path / "tab.html"
    file.write_text(page_, "utf-8")
    tab.go(file.as_uri())
    tab.until("[...document.querySelectorAll('video')].every(v => v.readyState === 4)")
    point(tab, 1, of=2)
    time = one.caption.grid.shown[1]
    tab.until(f"Math.abs(document.querySelectorAll('video')[1].currentTime - {time}) < .05")
    assert tab.run(TIME) == 0
    assert tab.run("document.documentElement.scrollWidth") <= 1280


def test_the_page_holds_real_frames_only_and_says_it_in_words(tmp_path: Path) -> None:
    page = Parsed(explanation_page([made(tmp_path, rows=2)]))
    shots = [b for b in page.all("button") if b.get("class") == "shot"]
    assert [b["data-frame"] for b in shots] == list(map(str, range(READ)))
    for word, peak in zip(words_of(page), PEAKS, strict=True):
        assert len(word["map"]) == READ * 4
        assert sum(word["map"]) == pytest.approx(READ * 4, abs=0.1)
        assert len(word["mattered"]) == READ
        assert peak is None or word["frame"] == peak
    (told,) = [c["aria-label"] for c in page.all("canvas") if "aria-label" in c]
    assert "dog: most at 0.8 s, 4.0 times uniform" in told
    assert "away: all frames alike" in told
    for part in ("each frame was covered", "the clip's mean colour", "6 frames of 2×2 cells"):
        assert part in page.text
    assert all(str(source).startswith("data:") for tag in ("img", "video")
               for source in [a.get("src") for a in page.all(tag)])  # fmt: skip


def test_a_notebook_shows_tiles(tmp_path: Path) -> None:
    caption = made(tmp_path, rows=2).caption
    shown = caption_html(caption)
    assert "<video" not in shown
    assert len(words_of(Parsed(shown))[0]["map"]) == READ * 4


@pytest.mark.parametrize("duration", [0.04, 0.5, 3.0, 7.01, 59.9, 7200.0])
def test_ticks_are_few_and_round(duration: float) -> None:
    ticks = _ticks(duration)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 7
    assert ticks[-1] <= duration
    assert all(f"{at:g}" == f"{float(f'{at:.2g}'):g}" or at > 100 for at in ticks)
