"""The pages in a real browser: where things lie, and what is drawn when a word is pressed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.audit.mistakes import examine
from regard.audit.report import report_html
from regard.data.dataset import CaptionedItem
from regard.explain import caption_html
from regard.explain.diary import DiaryCaption, DiaryEntry, DiaryPicture, write_diary
from regard.media import cell_bounds
from tests.helpers import toys
from tests.helpers.audits import audited

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]

_MEASURE = """<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
window.addEventListener("load", () => {
  const place = (element) => {
    const { left, right, top, bottom } = element.getBoundingClientRect();
    return { left, right, top, bottom };
  };
  const box = document.querySelector(".regard");
  if (PRESS !== null) box.querySelectorAll("button[data-word]")[PRESS].click();
  const canvas = box.querySelector("canvas");
  const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const frame = box.querySelector("i");
  const found = {
    errors,
    picture: place(box.querySelector("img")),
    map: place(canvas),
    mapShown: getComputedStyle(canvas).visibility,
    frame: place(frame),
    frameShown: getComputedStyle(frame).visibility,
    opacity: [...drawn.data].filter((_, i) => i % 4 === 3),
    ends: [...box.querySelectorAll(".ends span")].map(place),
    words: [...box.querySelectorAll(".words")[0].children].map(place),
    wide: document.documentElement.scrollWidth,
    loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
  };
  document.body.innerHTML = "<pre id='found'></pre>";
  document.querySelector("#found").textContent = JSON.stringify(found);
});
</script>"""


def measured(page: str, folder: Path, *, press: int | None = 1, width: int = 600) -> dict[str, Any]:
    """Press a word of a page's first caption, or none, and say where everything then lies."""
    file = folder / "page.html"
    file.write_text(page + _MEASURE.replace("PRESS", json.dumps(press)), "utf-8")
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]  # fmt: skip
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", file.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<pre id=\"found\">(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-500:]
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert told["errors"] == []
    assert [name for name in told["loaded"] if not name.startswith("data:")] == []
    return told


def viewer(caption: Any) -> str:
    return f"<!doctype html><meta charset='utf-8'><body>{caption_html(caption)}"


def covers(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(abs(one[side] - other[side]) < 1 for side in one)


@pytest.mark.parametrize("width", [600, 340])
def test_the_map_lies_on_the_picture_and_nothing_collides(tmp_path: Path, width: int) -> None:
    found = measured(viewer(toys.caption(("a", "dog", "runs") * 5)), tmp_path, width=width)
    assert found["mapShown"] == "visible"
    assert found["frameShown"] == "hidden"
    assert covers(found["map"], found["picture"])
    assert max(found["opacity"]) > 50
    for before, after in zip(found["ends"], found["ends"][1:], strict=False):
        assert before["right"] + 4 < after["left"]
        assert abs(before["top"] - after["top"]) < 1
    assert found["wide"] <= max(width, 500)  # a window is 500 pixels wide at least


def test_the_frame_of_hard_attention_lies_on_its_cell(tmp_path: Path) -> None:
    caption = toys.caption(chosen=(0, 4, 5))
    found = measured(viewer(caption), tmp_path)
    assert found["frameShown"] == "visible"
    picture = found["picture"]
    (top, bottom), (left, right) = cell_bounds(caption.grid, 4)
    height, width = caption.grid.source_size
    across = (picture["right"] - picture["left"]) / width
    down = (picture["bottom"] - picture["top"]) / height
    wanted = {
        "left": picture["left"] + left * across, "right": picture["left"] + right * across,
        "top": picture["top"] + top * down, "bottom": picture["top"] + bottom * down,
    }  # fmt: skip
    assert covers(found["frame"], wanted)


def test_words_run_as_their_script_does(tmp_path: Path) -> None:
    latin = measured(viewer(toys.caption()), tmp_path)["words"]
    arabic = measured(viewer(toys.caption(("كلب", "بني", "يركض"))), tmp_path)["words"]
    assert latin[0]["left"] < latin[1]["left"]
    assert arabic[0]["left"] > arabic[1]["left"]


def test_the_diary_frames_the_chosen_cell_too(tmp_path: Path) -> None:
    caption = toys.caption()
    assert caption.pixels is not None
    said = DiaryCaption(("a", "dog", "runs"), caption.trace.alpha, cells=[0, 4, 5])
    picture = DiaryPicture("dog.jpg", caption.pixels, caption.grid)
    write_diary(tmp_path / "diary.html", "d", [picture], [DiaryEntry(1, {}, {"dog.jpg": said})])
    found = measured((tmp_path / "diary.html").read_text("utf-8"), tmp_path, width=1200)
    assert found["frameShown"] == "visible"
    frame, box = found["frame"], found["picture"]
    assert np.isclose(frame["left"] - box["left"], (box["right"] - box["left"]) / 3, atol=1)
    assert np.isclose(frame["bottom"], box["bottom"], atol=1)


def test_the_audit_shows_the_map_of_the_word_before_any_is_pressed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(toys.jpeg())
    item = CaptionedItem(str(tmp_path / "a.jpg"), ("a dog runs", "a dog is running"), "val", "a")
    one = examine(item, toys.caption(("a", "cat", "runs")))
    found = measured(report_html(audited(one)), tmp_path, press=None)
    assert found["mapShown"] == "visible"
    assert covers(found["map"], found["picture"])
    cells = np.array(found["opacity"]).reshape(2, 3)
    assert cells.argmax() == one.caption.words[1].alpha.argmax()
    assert found["wide"] <= 600
