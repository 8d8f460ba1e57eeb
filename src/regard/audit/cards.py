"""Cards of an audit's report: a picture with the map of a word that a finding is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from regard.audit.mistakes import AuditedPicture, Finding
from regard.audit.records import Change
from regard.errors import MediaError
from regard.explain.html import (
    PageWord,
    escaped,
    map_data,
    output_html,
    picture_html,
    scale_html,
    word_note,
    words_html,
)
from regard.explain.maps import absolute_scale
from regard.media import read_image

_SIDE = 320  # pixels of a thumbnail's longer side
_REFERENCES, _LONGEST = 6, 300  # references of a card, characters of each


def finding_card(one: AuditedPicture, findings: Sequence[Finding]) -> str:
    """Return a picture's card.

    Args:
        one: the picture.
        findings: of one kind; the map of the first one's word is shown.
    """
    return _card(one, findings, "")


def change_card(change: Change) -> str:
    """Return a picture's card with both captions; the map is of the one with more mistakes."""
    if change.gain > 0:
        return _card(change.old, change.fixed, _other("now", change.new, change.introduced))
    return _card(change.new, change.introduced, _other("before", change.old, change.fixed))


def finding_text(one: AuditedPicture, finding: Finding) -> str:
    """Describe a finding in words."""
    said, wanted = finding.said, ", ".join(finding.wanted)
    if finding.kind == "missed":
        return f"all references name “{wanted}”"
    if finding.kind == "collapsed attention":
        return f"every word looks at one cell, with {finding.severity:.0%} or more"
    assert finding.place is not None
    word = one.spoken[finding.place]
    p = f"p {math.exp(word.logprob):.2f}"
    match finding.kind:
        case "unsupported":
            instead = f"; most say {wanted}" if wanted else ""
            return f"“{said}”: no reference says it{instead} ({p})"
        case "colour":
            return f"“{said}” of “{finding.noun}”: references say {wanted or 'others'} ({p})"
        case "count":
            return f"“{finding.number}”: references say {wanted} ({p})"
        case "repetition":
            return f"“{said}” is said again ({p})"
        case "flat attention":
            return f"“{said}”: {finding.severity:.1%} of the most entropy"
        case _:
            return f"“{said}”: {p}"


def _card(one: AuditedPicture, findings: Sequence[Finding], other: str) -> str:
    key = escaped(one.item.key)
    texts = "".join(f"<p class='finding'>{escaped(finding_text(one, f))}</p>" for f in findings)
    references = "".join(
        f"<li dir='auto'>{escaped(_cut(text))}</li>" for text in one.item.captions[:_REFERENCES]
    )
    foot = f"{texts}{other}<ul aria-label='references'>{references}</ul>"
    try:
        pixels = read_image(one.item.file).pixels
    except MediaError as error:
        return (
            f"<article class='regard'><h3>{key}</h3><p>{_marked(one, findings)}</p>{foot}"
            f"<p class='note'>{escaped(_cut(str(error)))}</p></article>"
        )
    grid = one.caption.grid
    top = absolute_scale(one.caption.trace.alpha, grid)
    words = words_html(_words(one, findings), {"map": (top,)})
    return (
        f"<article class='regard' data-map='{map_data(grid, smooth=False)}'><h3>{key}</h3>"
        f"{picture_html(pixels, grid, one.item.key, side=_SIDE)}{words}{foot}"
        f"{scale_html(top, grid, smooth=False)}{output_html()}</article>"
    )


def _words(one: AuditedPicture, findings: Sequence[Finding]) -> list[PageWord]:
    places = [0 if f.kind == "collapsed attention" else f.place for f in findings]
    words: list[PageWord] = []
    for at, spoken in enumerate(one.spoken):
        word = replace(one.caption.words[spoken.first], logprob=spoken.logprob)
        words.append(
            PageWord(
                spoken.text,
                word.alpha,
                word_note(word),
                cell=word.location,
                marked=at in places,
                first=bool(places) and at == places[0],
            )
        )
    return words


def _other(name: str, one: AuditedPicture, findings: Sequence[Finding]) -> str:
    return f"<p class='other' dir='auto'>{name}: {_marked(one, findings)}</p>"


def _marked(one: AuditedPicture, findings: Sequence[Finding]) -> str:
    """Return a caption as HTML in which the words of findings are marked."""
    places = {finding.place for finding in findings}
    words = [
        f"<mark>{escaped(word.text)}</mark>" if at in places else escaped(word.text)
        for at, word in enumerate(one.spoken)
    ]
    return " ".join(words) or "(no words)"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
