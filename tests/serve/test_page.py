"""The page in a real browser: everything that a visitor does, without a complaint."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image

import regard
from regard.serve import create_app
from tests.helpers import toys
from tests.helpers.browser import Page, browsing, needs_browser
from tests.helpers.toy_models import captioner

pytestmark = [pytest.mark.slow, needs_browser]

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
AXE = os.environ.get("REGARD_AXE", "")
IDLE = "!document.querySelector('[aria-busy]')"
WORDS = "[...document.querySelectorAll('#view [data-word]')].map((b) => b.textContent)"
MAP = "document.querySelector('#view canvas').toDataURL()"


@dataclass
class Visit:
    page: Page
    url: str
    downloads: Path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    served = {"flickr8k-soft": regard.load(), "toy-hard": captioner(attention="hard")}
    server = uvicorn.Server(uvicorn.Config(create_app(served), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def visit(browser: Page, address: str, tmp_path: Path) -> Iterator[Visit]:
    """The page, newly opened; in the end nobody has complained and nothing came from outside."""
    page, downloads = browser, tmp_path / "downloads"
    page.size(1280)
    page.dark(False)
    page.complaints.clear()
    page.requested.clear()
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    page.go(address)
    page.until("document.documentElement.dataset.ready")
    yield Visit(page, address, downloads)
    assert page.complaints == []
    own = (address, "data:", "blob:" + address)
    assert [url for url in page.requested if not url.startswith(own)] == []


def captioned(page: Page, name: str = "dog.jpg") -> list[str]:
    page.click(f"[data-sample='{name}']")
    page.until(f"document.querySelector('#canvas').width > 0 && {IDLE} && {WORDS}.length > 0")
    return page.run(WORDS)


def violations(page: Page) -> list[Any]:
    """What axe finds wrong."""
    page.run(Path(AXE).read_text("utf-8") + ";0")
    return page.run(
        "axe.run().then((found) => found.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))"
    )


def word(index: int) -> str:
    return f"#view .words button:nth-of-type({index + 1})"


def test_every_word_shows_its_map_and_opacity_changes_it(visit: Visit) -> None:
    page = visit.page
    words = captioned(page)
    maps: list[str] = []
    for i in range(len(words)):
        page.hover(word(i))
        page.until(f"document.querySelector({json.dumps(word(i))}).ariaPressed === 'true'")
        maps.append(page.run(MAP))
    assert len(set(maps)) > 1
    page.screenshot(SHOTS / "page-word.png")
    page.run("(() => { const o = document.querySelector('#view .opacity'); o.value = 10;"
             "o.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
    assert page.run(MAP) != maps[-1]
    assert page.run("document.querySelectorAll('#others li').length") == 3
    page.click("#others li:nth-of-type(2) button")
    assert page.run(WORDS) != words


def test_a_beginning_is_continued_and_half_a_word_harms_nothing(visit: Visit) -> None:
    page = visit.page
    words = captioned(page)
    page.type("#prefix", "two peop")
    page.until("!!document.querySelector('#status.wrong')")
    assert "'peop'" in page.run("document.querySelector('#status').textContent")
    assert page.run(WORDS) == words
    page.call("Input.insertText", text="le")
    page.until(f"{WORDS}[0] === 'two' && {IDLE}")
    assert page.run(WORDS)[:2] == ["two", "people"]
    assert "Before: " + " ".join(words) == page.run("document.querySelector('#before').textContent")
    page.click("#forget")
    page.until(f"{WORDS}[0] !== 'two' && {IDLE}")
    assert page.run(WORDS) == words


def test_another_word_rewrites_the_rest(visit: Visit) -> None:
    page = visit.page
    words = captioned(page, "friends.jpg")
    page.click(word(1))
    page.hover(word(4))  # on the way to the alternatives
    assert page.run(f"document.querySelector({json.dumps(word(1))}).ariaPressed") == "true"
    other = page.run("document.querySelector('#view .other bdi').textContent")
    page.click("#view .other")
    page.until(f"{WORDS}[1] === {json.dumps(other)} && {IDLE}")
    now = page.run(WORDS)
    assert (now[0], now[1]) == (words[0], other)
    assert other != words[1]
    page.screenshot(SHOTS / "page-alternative.png")
    page.until(f"document.activeElement === document.querySelector({json.dumps(word(1))})")
    page.key("ArrowDown", 40)  # the keyboard reaches the alternatives too
    assert page.run("document.activeElement.className") == "other"


def test_painting_changes_caption_and_maps(visit: Visit) -> None:
    page = visit.page
    words = captioned(page)
    page.click(word(1))
    before = page.run(MAP)
    page.run("(() => { const b = document.querySelector('#brush'); b.value = 30;"
             "b.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
    x, y = page.middle("#canvas")
    rows = [(x + dx, y + dy) for dy in (-150, 0, 150) for dx in (-150, 150)]
    page.drag(*rows)
    page.until(f"!document.querySelector('#undo').disabled && {IDLE}")
    painted = page.run(WORDS)
    page.click(word(1))
    assert painted != words
    assert page.run(MAP) != before
    page.screenshot(SHOTS / "page-painted.png")
    page.click("#undo")
    page.until(f"document.querySelector('#undo').disabled && {IDLE}")
    assert page.run(WORDS) == words
    page.run("document.querySelector('#canvas').focus()")
    page.key("ArrowLeft", 37)
    page.key(" ", 32, " ")
    page.until(f"!document.querySelector('#undo').disabled && {IDLE}")


def test_upload_models_and_downloads(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    name = "<img src=x onerror=alert(1)>.png"
    Image.fromarray(toys.picture(0, (300, 400))).save(tmp_path / name)
    page.choose_files("#file", tmp_path / name)
    page.until(f"{IDLE} && {WORDS}.length > 0")
    assert page.run("document.querySelectorAll('#view img').length") == 1
    assert page.run("document.querySelector('#view img').alt") == name
    page.click("#attention [value=hard]")
    page.until(f"{IDLE} && document.querySelector('#view footer').textContent.includes('toy')")
    assert page.run("document.querySelector('#model').value") == "toy-hard"
    assert not page.run("document.querySelector('#context-label').hidden")
    page.click("#attention [value=soft]")
    page.until(f"{IDLE} && document.querySelector('#view footer').textContent.includes('flickr')")
    page.click("#measure")
    page.until("document.querySelector('#status').textContent.startsWith('Measured')")
    assert page.run("document.querySelector('#view select').value") == "mattered"
    words = page.run(WORDS)
    for button in ("#report", "#numbers"):
        page.click(button)
        page.until(f"document.querySelector('#status').textContent === 'Downloaded.' && {IDLE}")
    page.until(lambda: sorted(p.suffix for p in visit.downloads.glob("*")) == [".html", ".json"])
    report, numbers = sorted(visit.downloads.iterdir())
    record = json.loads(numbers.read_text("utf-8"))
    assert record["caption"] == " ".join(words)
    assert record["occlusion"]
    page.go(report.as_uri())
    assert page.run("document.querySelector('h1').textContent") == " ".join(words)
    for i in range(len(words)):
        page.hover(f".regard .words button:nth-of-type({i + 1})")
    assert page.run("document.querySelectorAll('.looking').length") == 1
    before = page.run("document.querySelector('.regard canvas').toDataURL()")
    page.run("(() => { const o = document.querySelector('.opacity'); o.value = 10;"
             "o.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
    assert page.run("document.querySelector('.regard canvas').toDataURL()") != before
    page.screenshot(SHOTS / "report.png")
    assert not AXE or violations(page) == []
    page.requested = [url for url in page.requested if url != report.as_uri()]


@pytest.mark.parametrize(
    "event",
    [
        "new ClipboardEvent('paste', {clipboardData: held, bubbles: true})",
        "new DragEvent('drop', {dataTransfer: held, bubbles: true})",
    ],
    ids=["paste", "drop"],
)
def test_a_picture_is_pasted_or_dropped(visit: Visit, event: str) -> None:
    page = visit.page
    page.run(
        "fetch('samples/cat.jpg').then((a) => a.blob()).then((blob) => {"
        "const held = new DataTransfer();"
        "held.items.add(new File([blob], 'mine.jpg', {type: 'image/jpeg'}));"
        f"document.body.dispatchEvent({event}); }})"
    )
    page.until(f"{IDLE} && {WORDS}.length > 0")
    assert page.run("document.querySelector('#view img').alt") == "mine.jpg"


def test_what_is_no_picture_is_said(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    (tmp_path / "notes.txt").write_text("no picture")
    page.choose_files("#file", tmp_path / "notes.txt")
    page.until("!!document.querySelector('#status.wrong')")
    assert "notes.txt is not a picture" in page.run("document.querySelector('#status').textContent")
    # The browser itself logs that the service said no.
    assert len(page.complaints) == 1
    assert "415" in page.complaints.pop()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_the_screen_and_axe_finds_nothing(visit: Visit, width: int, dark: bool) -> None:
    page = visit.page
    page.size(width, 844, mobile=width < 500)
    page.dark(dark)
    captioned(page, "friends.jpg")
    page.click(word(4))
    page.screenshot(SHOTS / f"page-{width}-{'dark' if dark else 'light'}.png")
    assert page.run("document.documentElement.scrollWidth") <= width
    if not AXE:
        pytest.skip("REGARD_AXE names no axe.min.js; the layout was checked")
    assert violations(page) == []
