"""The report of an audit as one self-contained HTML file, with a card for each picture shown."""

import math
from collections.abc import Sequence
from dataclasses import replace

from regard.audit.mistakes import KINDS, Audit, AuditedPicture, Finding
from regard.audit.records import Change, changes
from regard.errors import MediaError
from regard.explain import html
from regard.explain.maps import absolute_scale
from regard.media import read_image
from regard.reliability.calibration import Reliability

_FRAGMENTS = html.Fragments("report.html", "regard.audit")
_PICTURES = 40  # embedded in the page: some 4 MB, however many were captioned
_OF_A_KIND = 6
_CHANGED = 6  # better and worse, beside a list of more
_ROWS = 40  # of a table; the JSON has all
_SIDE = 320  # pixels of a thumbnail's longer side
_REFERENCES, _LONGEST = 6, 300  # references of a card, characters of each
_MEANINGS = {
    "unsupported": "words that no reference says, nor an inflection, a synonym or a broader word",
    "colour": "colours of a thing that references give other colours",
    "count": "numbers that no reference agrees with",
    "missed": "things that all references name and the caption does not",
    "repetition": "words and phrases said twice",
    "low confidence": "content words that the model gave less than {low_confidence:.0%}",
    "flat attention": "content words with more than {flat:.0%} of the most entropy there is",
    "collapsed attention": "captions whose words all put more than {collapsed:.0%} on one cell",
}


def report_html(audit: Audit, against: Audit | None = None) -> str:
    """Return the whole page.

    The galleries read their pictures from the files again.

    Args:
        audit: audit of the model.
        against: audit of a model to compare with.
    """
    settings = {"tokens": "words"} | audit.settings
    title = f"Where {audit.settings['model']} fails"
    versus = f", set against {html.escaped(against.settings['model'])}" if against else ""
    audits = [audit, *([against] if against else [])]
    changed = changes(audit, against) if against else []
    room = _PICTURES - (2 * _CHANGED if against else 0)
    return html.page_html(
        title,
        f"{html.assets_html()}<style>\n{html.asset('report.css', 'regard.audit')}</style>",
        f"<h1>{html.escaped(title)}{versus}</h1>{_FRAGMENTS.fill('settings', **settings)}"
        f"{_totals(audits)}{_calibration(audits)}{_confusions(audit)}"
        f"{_changed(changed, against) if against else ''}{_galleries(audit, room)}"
        f"{_failures(audit)}",
    )


def _totals(audits: Sequence[Audit]) -> str:
    heads = ["", "", *(cell for a in audits for cell in (a.settings["model"], "pictures"))]
    rows: list[list[str]] = []
    for kind in KINDS:
        row = [kind, _MEANINGS[kind].format(**audits[0].settings)]
        for one in audits:
            count = one.counts()[kind]
            share = count["pictures"] / max(1, len(one.pictures))
            row += [str(count["findings"]), f"{count['pictures']} ({share:.0%})"]
        rows.append(row)
    measures = [
        ("things named without support", "things"),
        ("captions that name such a thing", "captions"),
        ("content words without support", "content_words"),
    ]
    for name, key in measures:
        row = [name, "share; by references alone"]
        for one in audits:
            row += [_share(one.hallucination()[key]), ""]
        rows.append(row)
    return f"<h2>Totals</h2>{_table(heads, rows)}"


def _share(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "–"


def _calibration(audits: Sequence[Audit]) -> str:
    figures = "".join(
        _FRAGMENTS.fill("diagram", model=one.settings["model"], error=_share(found.error),
                        diagram=reliability_diagram(found))
        for one, found in ((one, one.reliability()) for one in audits)
    )  # fmt: skip
    return _FRAGMENTS.fill("calibration", figures=figures)


def reliability_diagram(found: Reliability) -> str:
    """Draw a reliability diagram as inline SVG."""
    side, left, top = 240, 34, 8
    bottom = top + side
    most = max((one.words for one in found.bins), default=0)
    marks: list[str] = []
    for one in found.bins:
        if not one.words:
            continue
        high = side * one.support
        marks.append(_FRAGMENTS.fill(
            "bin", bin=one, x=left + side * one.low + 1, y=bottom - high, high=high,
            width=side * (one.high - one.low) - 2, middle=left + side * one.confidence,
            opacity=0.25 + 0.75 * one.words / most,
        ))  # fmt: skip
    ticks = "".join(
        _FRAGMENTS.fill("tick", at=t, before=left - 6, up=bottom - side * t + 4,
                        along=left + side * t, below=bottom + 16)
        for t in (0, 0.5, 1)
    )  # fmt: skip
    return _FRAGMENTS.fill(
        "axes", left=left, right=left + side, top=top, bottom=bottom, width=left + side + 14,
        height=bottom + 38, marks="".join(marks), ticks=ticks, middle=left + side / 2,
        foot=bottom + 32,
    )  # fmt: skip


def _confusions(audit: Audit) -> str:
    found = audit.confusions()
    if not found:
        return ""
    rows = [[said, wanted, name, str(count)] for name, said, wanted, count in found[:_ROWS]]
    table = _table(["said", "most references say", "class", "pictures"], rows)
    return _FRAGMENTS.fill("confusions", table=table)


def _changed(changed: Sequence[Change], against: Audit) -> str:
    better = [c for c in changed if c.gain > 0]
    worse = [c for c in changed if c.gain < 0][::-1]
    model, counts = against.settings["model"], {"better": len(better), "worse": len(worse)}
    parts = [_FRAGMENTS.fill("compared", model=model, **counts)]
    for name, some in (("Better", better), ("Worse", worse)):
        if not some:
            continue
        cards = "".join(change_card(change) for change in some[:_CHANGED])
        rows = [
            [c.new.item.key, c.old.caption.text, c.new.caption.text,
             "; ".join(finding_text(c.old, f) for f in c.fixed),
             "; ".join(finding_text(c.new, f) for f in c.introduced)]
            for c in some[:_ROWS]
        ]  # fmt: skip
        table = _table(["picture", "before", "now", "gone", "come"], rows)
        counts = {"shown": len(rows), "count": len(some)}
        parts.append(_FRAGMENTS.fill("changes", name=name, cards=cards, table=table, **counts))
    return "".join(parts)


def _galleries(audit: Audit, room: int) -> str:
    ranked = {kind: worst_findings(audit, kind) for kind in KINDS}
    present = {kind: found for kind, found in ranked.items() if found}
    each = min(_OF_A_KIND, room // max(1, len(present)))
    parts: list[str] = []
    for kind, found in present.items():
        cards = "".join(finding_card(one, findings) for one, findings in found[:each])
        parts.append(_FRAGMENTS.fill(
            "gallery", kind=kind.capitalize(), shown=min(each, len(found)), count=len(found),
            meaning=_MEANINGS[kind].format(**audit.settings), cards=cards,
        ))  # fmt: skip
    return "".join(parts)


def worst_findings(audit: Audit, kind: str) -> list[tuple[AuditedPicture, list[Finding]]]:
    """Return the pictures with findings of a kind, each with those, the most severe first."""
    found = [
        (one, sorted((f for f in one.findings if f.kind == kind), key=lambda f: -f.severity))
        for one in audit.pictures
    ]
    having = [(one, findings) for one, findings in found if findings]
    return sorted(having, key=lambda pair: (-pair[1][0].severity, pair[0].item.key))


def _failures(audit: Audit) -> str:
    if not audit.failures:
        return ""
    rows = [[key, reason] for key, reason in list(audit.failures.items())[:_ROWS]]
    return (
        f"<h2>{len(audit.failures)} pictures could not be captioned</h2>"
        f"{_table(['picture', 'reason'], rows)}"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return html.table_html(heads, rows, "td dir='auto'")


# Cards


def finding_card(one: AuditedPicture, findings: Sequence[Finding]) -> str:
    """Return a picture's card.

    Args:
        one: the picture.
        findings: findings of one kind; the map of the first one's word is shown.
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
    texts = "".join(
        f"<p class='finding'>{html.escaped(finding_text(one, f))}</p>" for f in findings
    )
    references = "".join(
        f"<li dir='auto'>{html.escaped(_cut(text))}</li>"
        for text in one.item.captions[:_REFERENCES]
    )
    foot = _FRAGMENTS.fill("foot", texts=texts, other=other, references=references)
    try:
        pixels = read_image(one.item.file).pixels
    except MediaError as error:
        reason, text = _cut(str(error)), _marked(one, findings)
        return _FRAGMENTS.fill("unread", key=one.item.key, text=text, foot=foot, error=reason)
    grid = one.caption.grid
    top = absolute_scale(one.caption.trace.alpha, grid)
    words = html.words_html(_words(one, findings), {"map": (top,)})
    return _FRAGMENTS.fill(
        "card", maps=html.map_data(grid, smooth=False), key=one.item.key, words=words, foot=foot,
        picture=html.picture_html(pixels, grid, one.item.key, side=_SIDE),
        scale=html.scale_html(top, grid, smooth=False), output=html.output_html(),
    )  # fmt: skip


def _words(one: AuditedPicture, findings: Sequence[Finding]) -> list[html.PageWord]:
    places = [0 if f.kind == "collapsed attention" else f.place for f in findings]
    words: list[html.PageWord] = []
    for at, spoken in enumerate(one.spoken):
        word = replace(one.caption.words[spoken.first], logprob=spoken.logprob)
        note, cell = html.word_note(word), word.location
        marked, first = at in places, at in places[:1]
        words.append(
            html.PageWord(spoken.text, word.alpha, note, cell=cell, marked=marked, first=first)
        )
    return words


def _other(name: str, one: AuditedPicture, findings: Sequence[Finding]) -> str:
    return f"<p class='other' dir='auto'>{name}: {_marked(one, findings)}</p>"


def _marked(one: AuditedPicture, findings: Sequence[Finding]) -> str:
    """Return a caption as HTML in which the words of findings are marked."""
    places = {finding.place for finding in findings}
    words = [
        f"<mark>{html.escaped(word.text)}</mark>" if at in places else html.escaped(word.text)
        for at, word in enumerate(one.spoken)
    ]
    return " ".join(words) or "(no words)"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
