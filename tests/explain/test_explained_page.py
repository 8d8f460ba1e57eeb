"""The explained page in a real browser: every control does what it says, and quickly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regard.explain.page import Explained, explanation_page
from regard.faithfulness.occlusion import Occlusion
from tests.helpers import toys
from tests.helpers.browser import Page, browsing, needs_browser

pytestmark = [pytest.mark.slow, needs_browser]

WORDS = ("a", "brown", "dog", "runs", "on", "green", "grass", "with", "a", "red", "ball", "today")
DRAWN = """(() => {
  const box = document.querySelector('.regard'), canvas = box.querySelector('canvas');
  const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return [...all].filter((_, i) => i % 4 === 3);
})()"""
SHOWN = (
    "[...document.querySelectorAll('.regard button[data-word]')]"
    ".findIndex(b => b.getAttribute('aria-pressed') === 'true')"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    grid = replace(toys.caption().grid, shape=(14, 14))
    draw = np.random.default_rng(0)
    caption = toys.caption(WORDS, alpha=draw.dirichlet(np.ones(196), len(WORDS)), grid=grid)
    falls = draw.normal(0, 1, (len(WORDS), 14, 14))
    occlusion = Occlusion(falls, np.linspace(-1, 1, len(WORDS)), "mean")
    file = tmp_path_factory.mktemp("explained") / "page.html"
    file.write_text(explanation_page([Explained(caption, occlusion)]), "utf-8")
    with browsing(file.parent) as tab:
        tab.go(file.as_uri())
        yield tab
        # The test itself reads the canvas back, of which the browser disapproves.
        assert [text for text in tab.complaints if "readback" not in text] == []
        assert [url for url in tab.requested if not url.startswith(("file:", "data:"))] == []


def test_each_word_shows_its_own_map_within_a_frame(page: Page) -> None:
    maps = []
    for i in range(len(WORDS)):
        page.hover(f".regard button[data-word]:nth-of-type({i + 1})")
        page.until(f"{SHOWN} === {i}")
        maps.append(tuple(page.run(DRAWN)))
    assert len(set(maps)) == len(WORDS)
    times = page.run(
        "[...document.querySelectorAll('.regard button[data-word]')].map(b => {"
        "const began = performance.now();"
        "b.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}));"
        "return performance.now() - began; })"
    )
    print(f"script time of a word: median {np.median(times):.1f} ms, most {max(times):.1f} ms")
    assert np.median(times) < 16


def test_opacity_and_what_mattered(page: Page) -> None:
    page.hover(".regard button[data-word]")
    page.until(f"{SHOWN} === 0")
    looked = page.run(DRAWN)
    page.run("(() => { const s = document.querySelector('.regard select'); s.value = 'mattered';"
             "s.dispatchEvent(new Event('change', {bubbles: true})); })()")  # fmt: skip
    assert page.run(DRAWN) != looked
    assert page.run("document.querySelector('.regard .top').textContent").endswith("nats")
    page.run("(() => { const s = document.querySelector('.regard .opacity'); s.value = 0;"
             "s.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
    assert max(page.run(DRAWN)) == 0


def test_play_goes_through_the_words_and_pauses(page: Page) -> None:
    page.run("document.querySelector('.regard .play').click()")
    first = page.run(SHOWN)
    page.until(f"{SHOWN} !== {first}")
    assert page.run("document.querySelector('.regard .play').getAttribute('aria-label')") == "pause"
    page.run("document.querySelector('.regard .play').click()")
    label = page.run("document.querySelector('.regard .play').getAttribute('aria-label')")
    assert label == "play the words"
