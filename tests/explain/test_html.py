"""The HTML fragment: self-contained, escaped, and showing what Python would draw."""

import json
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.errors import ConfigError
from regard.explain import caption_html
from regard.explain.html import FALL_LEAST, Fragments, falls_scale
from regard.explain.maps import OPACITY, absolute_scale, colours, smoothing
from regard.faithfulness.occlusion import Occlusion
from tests.helpers import toys
from tests.helpers.pages import Parsed, buttons_of, words_of


def test_a_button_for_each_word_with_its_numbers() -> None:
    caption = toys.caption()
    page = Parsed(caption_html(caption))
    assert len(buttons_of(page)) == 3
    for word, told, button in zip(caption.words, words_of(page), buttons_of(page), strict=True):
        np.testing.assert_allclose(told["map"], word.alpha.ravel() * 6, atol=0.006)
        for part in ("p 0.61", f"entropy {word.entropy:.2f}", f"peak {word.peak:.1%}", "β 0.75"):
            assert part in told["note"]
            assert part in button["aria-label"]
        assert told["others"] == [[word.text, 0.6065], ["cat", 0.2231]]
        assert told["cell"] is None


def test_it_loads_nothing() -> None:
    html = caption_html(toys.caption())
    assert "http:" not in html
    assert "https:" not in html
    page = Parsed(html)
    sources = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "srcset")]
    assert len(sources) == 1
    assert sources[0] is not None
    assert sources[0].startswith("data:image/jpeg;base64,")
    assert "@import" not in html
    assert "url(" not in html


def test_two_fragments_share_no_ids() -> None:
    both = Parsed(caption_html(toys.caption()) * 2)
    assert not any("id" in attributes for _, attributes in both.tags)


def test_text_is_escaped() -> None:
    hostile = "<script>alert('1')</script>\"&"
    page = Parsed(caption_html(toys.caption(("a", hostile))))
    assert len(page.all("script")) == 1
    assert hostile in page.text
    assert hostile in buttons_of(page)[1]["aria-label"]
    assert words_of(page)[1]["others"][0][0] == hostile


def test_the_map_lies_where_the_cells_lie() -> None:
    grid = toys.Grid(("rows", "cols"), (2, 2), (40, 80), ((0.0, 40.0), (20.0, 60.0)))
    page = Parsed(caption_html(toys.caption(grid=grid)))
    (canvas,) = page.all("canvas")
    assert canvas["style"] == "left:25.0000%;top:0.0000%;width:50.0000%;height:100.0000%"


def test_it_says_where_and_never_claims_a_reason() -> None:
    text = Parsed(caption_html(toys.caption())).text
    assert "Where the decoder looked" in text
    assert "2×3 cells" in text
    assert "Gaussian" in text
    assert "why" not in text.lower()
    assert "because" not in text.lower()


def test_a_caption_without_its_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match="caption the file again"):
        caption_html(toys.caption().without_pixels())


def _pressed(html: str, *, smooth: bool, **chosen: Any) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    page = Parsed(html)
    box = next(a for a in page.all("div") if a.get("class") == "regard")
    words = next(a for a in page.all("div") if a.get("class") == "words")
    told = {
        "map": json.loads(box["data-map"] or ""),
        "tops": json.loads(words["data-tops"] or ""),
        "words": words_of(page),
        "smooth": smooth,
    } | chosen
    script = Path(__file__).with_name("run_viewer.js")
    viewer = files("regard.explain") / "viewer.js"
    done = subprocess.run(
        [node, str(script), str(viewer)],
        input=json.dumps(told), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("smooth", [False, True])
def test_the_page_draws_what_python_draws(smooth: bool) -> None:
    caption = toys.caption()
    seen = _pressed(caption_html(caption), smooth=smooth)
    relative = caption.words[1].alpha * 6.0
    if smooth:
        relative = smoothing(2, 8) @ relative @ smoothing(3, 8).T
    top = absolute_scale(caption.trace.alpha, caption.grid, smooth=smooth)
    colour, opacity = colours(relative / top)
    wanted = 255 * np.concatenate([colour, opacity[..., None]], -1)
    assert seen["size"] == list(relative.shape)
    drawn = np.array(seen["pixels"]).reshape(*relative.shape, 4)
    assert np.abs(drawn - wanted).max() < 6  # the page holds 33 colours
    assert drawn[..., 3].max() <= round(255 * OPACITY)
    assert seen["top"] == f"{top:.1f}×"
    assert seen["classes"] == (["looking"] if smooth else ["looking", "raw"])


def test_what_mattered_is_drawn_on_a_scale_of_its_own() -> None:
    caption = toys.caption(chosen=(0, 4, 5))
    falls = np.random.default_rng(0).normal(0, 1, (3, 2, 3))
    falls[0, 0, 0] = 3.0  # the largest of the caption, in another word than the one shown
    occlusion = Occlusion(falls, np.array([0.5, np.nan, -0.25]), "mean")
    html = caption_html(caption, occlusion)
    seen = _pressed(html, smooth=False, layer="mattered", opacity="50")
    colour, _ = colours(falls[1].clip(0) / 3.0)
    strength = 0.5 * falls[1].clip(0) / 3.0
    wanted = 255 * np.concatenate([colour, strength[..., None]], -1)
    drawn = np.array(seen["pixels"]).reshape(2, 3, 4)
    assert np.abs(drawn - wanted).max() < 6
    assert seen["top"] == "3.00 nats"
    assert seen["middle"] == "fall of log p"
    assert "chosen" not in seen["classes"]  # the frame belongs to where it looked
    notes = [word["note"] for word in words_of(Parsed(html))]
    assert ["agreement" in note for note in notes] == [True, False, True]
    assert "what mattered +0.50" in notes[0]
    # Without an occlusion nothing claims to know what mattered.
    assert "mattered" not in Parsed(caption_html(caption)).text


def test_a_weak_fall_looks_weak() -> None:
    grid = toys.caption().grid
    assert falls_scale(np.full((1, 2, 3), 0.01), grid) == (FALL_LEAST, FALL_LEAST)


def test_arrow_keys_move_on_and_the_word_is_told() -> None:
    seen = _pressed(caption_html(toys.caption()), smooth=True)
    assert seen["pressed"] == ["false", "true", "false"]
    assert "entropy" in seen["note"]
    assert seen["others"] == 3  # a line break and two alternatives


def test_the_chosen_cell_of_hard_attention_is_framed() -> None:
    seen = _pressed(caption_html(toys.caption(chosen=(0, 4, 5))), smooth=False)
    assert "chosen" in seen["classes"]
    frame = {name: float(value.rstrip("%")) for name, value in seen["frame"].items()}
    wanted = {"left": 100 / 3, "top": 50.0, "width": 100 / 3, "height": 50.0}
    assert frame == pytest.approx(wanted)


def test_alternatives_that_are_no_words_are_named_in_words() -> None:
    caption = toys.caption(("a",))
    others = (("<end>", -0.5), ("<unk>", -1.5), ("dog", -2.5))
    told = caption_html(replace(caption, words=(replace(caption.words[0], alternatives=others),)))
    assert "(end) 0.61; (unknown word) 0.22; dog 0.08" in told
    assert "&lt;end&gt;" not in told


def test_a_fragment_escapes_texts_and_keeps_no_indentation() -> None:
    shot = Fragments("clip.html").fill(
        "shot", frame=3, tab=0, number=4, count=9, seconds=1.25, picture="data:,"
    )
    assert shot.startswith("<button type='button' class='shot' data-frame='3' tabindex='0'")
    assert "at 1.2 seconds'><img alt='' src='data:,'><span class='weight'><b></b></span>" in shot
    still = Fragments("scan.html").fill("still", picture="data:,")
    assert "runs no scripts. The picture shows" in still  # a line break in a text is a space
    page = Fragments("viewer.html").fill("page", title="<b>&", head="<i>", body="")
    assert "<title>&lt;b&gt;&amp;</title><i></head>" in page
    with pytest.raises(KeyError, match="head"):
        Fragments("viewer.html").fill("page", title="", body="")


def test_named_words_say_which_cell() -> None:
    caption = toys.caption()
    words = list(caption.words)
    words[1] = replace(words[1], copy=0.7, copied=0.9, cell=(1, 2))
    words[2] = replace(words[2], copy=0.1, copied=0.2, cell=(0, 0))
    said = caption_html(replace(caption, words=tuple(words)))
    assert said.count("named from cell (1, 2)") == 2  # shown, and read aloud
    assert said.count("class='named'") == 1
    assert "named from cell (0, 0)" not in said
    assert "class='named'" not in caption_html(caption)
