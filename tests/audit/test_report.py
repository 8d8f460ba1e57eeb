"""The report: self-contained, escaped, small; the CSV and JSON beside it."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.audit.mistakes import KINDS, Audit, AuditedPicture, examine
from regard.audit.records import changes, report_csv, report_json
from regard.audit.report import (
    change_card,
    finding_card,
    finding_text,
    reliability_diagram,
    report_html,
    worst_findings,
)
from regard.data.dataset import CaptionedItem
from regard.explain.maps import absolute_scale
from regard.reliability.calibration import reliability
from tests.helpers import toys
from tests.helpers.audits import audited
from tests.helpers.pages import Parsed, words_of

HOSTILE = "<script>alert(1)</script> '\"><img src=http://evil.example/x> because"


@pytest.fixture
def photo(tmp_path: Path) -> str:
    (tmp_path / "a.jpg").write_bytes(toys.jpeg())
    return str(tmp_path / "a.jpg")


def picture(
    file: str, words: tuple[str, ...] = ("a", "cat", "sits", "sits"), key: str = "a.jpg",
    references: tuple[str, ...] = ("a dog runs", "the dog is running"),
) -> AuditedPicture:  # fmt: skip
    return examine(CaptionedItem(file, references, "val", key), toys.caption(words))


def every_kind(file: str) -> Audit:
    """One finding or more of each kind."""
    alpha = np.full((4, 6), 0.01)
    alpha[:, 4] = 0.95
    collapsed = replace(toys.caption(("two", "black", "dogs", "sit"), alpha=alpha))
    flat = toys.caption(("a", "cat", "sits", "sits"), alpha=np.full((4, 6), 1 / 6))
    flat = replace(flat, words=tuple(replace(w, logprob=-3.0) for w in flat.words))
    references = ("a brown dog runs", "the brown dog is running")
    return audited(
        *(
            examine(CaptionedItem(file, references, "val", key), caption)
            for key, caption in (("a.jpg", collapsed), ("b.jpg", flat))
        )
    )


def without_data(page: str) -> str:
    return re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*", "", page)


def test_the_page_shows_every_kind_and_loads_nothing(photo: str) -> None:
    found = every_kind(photo)
    assert all(count["findings"] for count in found.counts().values())
    html = report_html(found)
    page = Parsed(html)
    for kind in KINDS:
        assert f"{kind.capitalize()}: " in page.text
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "action", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "http" not in without_data(html)
    assert "url(" not in html
    words = set(re.findall(r"[a-z]+", page.text.lower()))
    assert words.isdisjoint({"because", "why"})


def test_texts_and_names_never_become_markup(photo: str) -> None:
    one = examine(
        CaptionedItem(photo, (HOSTILE, f"a {HOSTILE} dog"), "val", f"{HOSTILE}.jpg"),
        replace(toys.caption(tuple(HOSTILE.split())), model=HOSTILE),
    )
    other = picture(photo, ("a", "dog", "runs"), f"{HOSTILE}.jpg")
    found = audited(one)
    found = replace(found, settings=found.settings | {"model": HOSTILE, "split": HOSTILE},
                    failures={HOSTILE: HOSTILE})  # fmt: skip
    html = report_html(found, audited(other))
    page = Parsed(html)  # every tag closes in order
    assert len(page.all("script")) == 1
    assert "alert(1)" in page.text
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/jpeg;base64,")


def test_a_card_marks_the_word_and_shows_its_map_on_the_captions_scale(photo: str) -> None:
    one = picture(photo)
    findings = [f for f in one.findings if f.kind == "unsupported"]
    page = Parsed(finding_card(one, findings))
    buttons = [b for b in page.all("button") if "data-word" in b]
    assert [b.get("class") for b in buttons] == [None, "marked first", "marked", "marked"]
    for word, shown in zip(one.caption.words, words_of(page), strict=True):
        np.testing.assert_allclose(shown["map"], word.alpha.ravel() * 6, atol=0.006)
    [box] = [d for d in page.all("div") if d.get("class") == "words"]
    assert json.loads(box["data-tops"])["map"] == [
        absolute_scale(one.caption.trace.alpha, one.caption.grid)
    ]
    assert "“cat”: no reference says it; most say dog (p 0.61)" in page.text
    assert "the dog is running" in page.text


def test_a_missed_thing_shows_no_map_and_a_collapsed_caption_its_first(photo: str) -> None:
    found = every_kind(photo)
    missed = picture(photo)
    card = finding_card(missed, [f for f in missed.findings if f.kind == "missed"])
    assert "first" not in [b.get("class") for b in Parsed(card).all("button")]
    collapsed = found.pictures[0]
    some = [f for f in collapsed.findings if f.kind == "collapsed attention"]
    card = finding_card(collapsed, some)
    assert Parsed(card).all("button")[0]["class"] == "marked first"
    [count] = [f for f in collapsed.findings if f.kind == "count"]
    assert finding_text(collapsed, count) == "“two dogs”: references say 1 (p 0.61)"
    assert finding_text(collapsed, some[0]) == "every word looks at one cell, with 95% or more"


def test_a_picture_that_is_gone_keeps_its_card() -> None:
    one = picture("gone/a.jpg")
    page = Parsed(finding_card(one, one.findings[:1]))
    assert page.all("img") == []
    assert "a cat sits sits" in page.text
    assert "gone/a.jpg" in page.text


def test_galleries_rank_by_severity(photo: str) -> None:
    weak = picture(photo, ("a", "cat"), "a.jpg")
    strong = picture(photo, ("a", "cat"), "b.jpg")
    sure = replace(strong, findings=tuple(replace(f, severity=0.9) for f in strong.findings))
    ranked = worst_findings(audited(weak, sure), "unsupported")
    assert [one.item.key for one, _ in ranked] == ["b.jpg", "a.jpg"]
    assert worst_findings(audited(weak), "count") == []


def test_a_report_of_a_thousand_pictures_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (500, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    grid = toys.Grid(("rows", "cols"), (14, 14), (500, 500), ((0.0, 500.0), (0.0, 500.0)))
    caption = toys.caption(
        ("a", "cat", "sits", "on", "a", "red", "bench", "near", "two", "birds"), grid=grid
    )
    caption = replace(caption, words=tuple(replace(w, logprob=-3.0) for w in caption.words))
    references = ("a dog runs on a blue carpet",) * 5
    one = examine(CaptionedItem(str(tmp_path / "a.jpg"), references, "val", "a.jpg"), caption)
    many = tuple(replace(one, item=replace(one.item, key=f"{i}.jpg")) for i in range(1000))
    old = audited(*(replace(o, findings=o.findings[1:]) for o in many))
    html = report_html(audited(*many), old)
    assert html.count("<img") <= 40
    assert html.count("<img") >= 20
    assert len(html) < 6_000_000


def test_the_csv_has_a_row_for_each_finding(photo: str) -> None:
    found = every_kind(photo)
    rows = list(csv.DictReader(io.StringIO(report_csv(found))))
    assert len(rows) == sum(len(one.findings) for one in found.pictures)
    assert {row["kind"] for row in rows} == set(KINDS)
    [colour] = [row for row in rows if row["kind"] == "colour"]
    assert (colour["picture"], colour["word"], colour["position"]) == ("a.jpg", "black", "2")
    assert (colour["noun"], colour["wanted"], colour["p"]) == ("dogs", "brown", "0.6065")
    assert colour["caption"] == "two black dogs sit"


def test_the_csv_runs_no_formula(photo: str) -> None:
    one = picture(photo, ("=cmd()", "dog"), '@sum,"x".jpg')
    rows = list(csv.reader(io.StringIO(report_csv(audited(one)))))
    assert len(rows) > 1
    assert rows[1][0] == '\'@sum,"x".jpg'
    assert rows[1][-1] == "'=cmd() dog"


def test_the_json_has_everything(photo: str) -> None:
    found = every_kind(photo)
    record = json.loads(json.dumps(report_json(found)))
    assert set(record) == {"settings", "totals", "hallucination", "reliability", "confusions",
                           "failures", "pictures"}  # fmt: skip
    first = record["pictures"][0]
    assert first["caption"] == "two black dogs sit"
    assert first["references"] == ["a brown dog runs", "the brown dog is running"]
    assert [word["supported"] for word in first["words"]] == [False, False, True, False]
    assert first["words"][1]["class"] == "colour"
    assert {f["kind"] for p in record["pictures"] for f in p["findings"]} == set(KINDS)
    assert record["totals"]["count"] == {"findings": 1, "pictures": 1}
    assert {"class": "colour", "said": "black", "wanted": "brown", "pictures": 1} in record[
        "confusions"
    ]


def test_what_got_better_and_worse(photo: str) -> None:
    good, bad = ("a", "dog", "runs"), ("a", "cat", "runs")
    new = audited(picture(photo, good, "a.jpg"), picture(photo, bad, "b.jpg"))
    old = audited(picture(photo, bad, "a.jpg"), picture(photo, good, "b.jpg"))
    record = report_json(new, old)["against"]
    assert (record["better"], record["worse"]) == (["a.jpg"], ["b.jpg"])
    assert record["changes"][0]["gain"] == 2
    html = report_html(new, old)
    assert "Compared with toy: 1 pictures better, 1 worse" in html
    # The map shown is of the wrong word of whichever caption is worse.
    better, worse = changes(new, old)
    for change, name in ((better, "now"), (worse, "before")):
        page = Parsed(change_card(change))
        [first] = [b for b in page.all("button") if "first" in (b.get("class") or "")]
        assert first["aria-label"].startswith("cat:")
        assert f"{name}: a dog runs" in page.text


def test_the_diagram_draws_each_bin() -> None:
    page = Parsed(reliability_diagram(reliability([0.25, 0.25, 0.95], [True, False, True])))
    bars = page.all("rect")
    assert [bar["height"] for bar in bars] == ["120.0", "240.0"]
    assert "2 words, 50% supported" in page.text
    assert Parsed(reliability_diagram(reliability([], []))).all("rect") == []
