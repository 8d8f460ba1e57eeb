"""The report of an audit as one HTML file that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from regard.audit.cards import change_card, finding_card, told
from regard.audit.mistakes import KINDS, Audit, Audited, Finding
from regard.audit.records import Change, changes
from regard.explain.html import assets_html, escaped
from regard.reliability.calibration import Reliability

_PICTURES = 40  # that the page embeds: some 4 MB, however many were captioned
_OF_A_KIND = 6
_CHANGED = 6  # of each way, beside a list of more
_ROWS = 40  # of a table; the JSON has all
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
        audit: of the model in question.
        against: of a model that it is compared with.
    """
    model = escaped(audit.settings["model"])
    versus = f", set against {escaped(against.settings['model'])}" if against else ""
    changed = changes(audit, against) if against else []
    room = _PICTURES - (2 * _CHANGED if against else 0)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Where {model} fails</title>{assets_html()}<style>{_STYLE}</style></head>"
        f"<body><main><h1>Where {model} fails{versus}</h1>{_settings(audit)}"
        f"{_totals(audit, against)}{_calibration(audit, against)}{_confusions(audit)}"
        f"{_changed(changed, against) if against else ''}{_galleries(audit, room)}"
        f"{_failures(audit)}</main></body></html>"
    )


def _settings(audit: Audit) -> str:
    s = audit.settings
    return (
        f"<p class='note'>{escaped(str(s['pictures']))} pictures of the split "
        f"{escaped(s['split'])}, beam {s['beam']}. Captions are judged against their references "
        "by rules and a list of synonyms: references do not tell all that a picture shows, so "
        "what they do not support may still be there. Maps show where the decoder looked, not "
        "what made it say a word.</p>"
    )


def _totals(audit: Audit, against: Audit | None) -> str:
    audits = [audit, *([against] if against else [])]
    heads = ["", "", *(cell for a in audits for cell in (a.settings["model"], "pictures"))]
    rows: list[list[str]] = []
    for kind in KINDS:
        row = [kind, _MEANINGS[kind].format(**audit.settings)]
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


def _calibration(audit: Audit, against: Audit | None) -> str:
    figures = "".join(
        f"<figure>{diagram(one.reliability())}<figcaption>{escaped(one.settings['model'])}: "
        f"expected calibration error {_share(one.reliability().error)}</figcaption></figure>"
        for one in [audit, *([against] if against else [])]
    )
    return (
        "<h2>Does confidence tell?</h2><p class='note'>Content words by the probability the model "
        "gave them, and how many of each bin the references support. On the diagonal both agree. "
        "Several right words share the probability, so right words of low probability lift the "
        f"left of the diagram.</p><div class='diagrams'>{figures}</div>"
    )


def diagram(found: Reliability) -> str:
    """Draw a reliability diagram as inline SVG."""
    side, left, top = 240, 34, 8
    most = max((one.words for one in found.bins), default=0)
    marks: list[str] = []
    for one in found.bins:
        if not one.words:
            continue
        x, width = left + side * one.low, side * (one.high - one.low) - 2
        high = side * one.support
        about = f"p {one.low:.1f} to {one.high:.1f}: {one.words} words, {one.support:.0%} supported"
        marks.append(
            f"<rect x='{x + 1:.1f}' y='{top + side - high:.1f}' width='{width:.1f}' "
            f"height='{high:.1f}' fill-opacity='{0.25 + 0.75 * one.words / most:.2f}'>"
            f"<title>{escaped(about)}</title></rect>"
            f"<circle cx='{left + side * one.confidence:.1f}' cy='{top + side - high:.1f}' r='3'/>"
        )
    ticks = "".join(
        f"<text x='{left - 6}' y='{top + side * (1 - t) + 4:.0f}' text-anchor='end'>{t:g}</text>"
        f"<text x='{left + side * t:.0f}' y='{top + side + 16}' text-anchor='middle'>{t:g}</text>"
        for t in (0, 0.5, 1)
    )
    return (
        f"<svg viewBox='0 0 {left + side + 14} {top + side + 38}' role='img' "
        f"aria-label='support of words by their probability'>{''.join(marks)}"
        f"<path d='M{left},{top + side} L{left + side},{top} M{left},{top} V{top + side} "
        f"H{left + side}'/>{ticks}<text x='{left + side / 2:.0f}' y='{top + side + 32}' "
        "text-anchor='middle'>p(word); bars: share supported, darker of more words</text></svg>"
    )


def _confusions(audit: Audit) -> str:
    found = audit.confusions()
    if not found:
        return ""
    rows = [[said, wanted, name, str(count)] for name, said, wanted, count in found[:_ROWS]]
    return (
        "<h2>Said, and should have said</h2><p class='note'>A word without support beside the "
        "words of its class that most references say and the caption does not.</p>"
        f"{_table(['said', 'most references say', 'class', 'pictures'], rows)}"
    )


def _changed(changed: Sequence[Change], against: Audit) -> str:
    better = [c for c in changed if c.gain > 0]
    worse = [c for c in changed if c.gain < 0][::-1]
    parts = [
        f"<h2>Compared with {escaped(against.settings['model'])}: {len(better)} pictures better, "
        f"{len(worse)} worse</h2>"
        "<p class='note'>By the number of mistakes in the text. The map is of a word that "
        "the worse caption was wrong about.</p>"
    ]
    for name, some in (("Better", better), ("Worse", worse)):
        if not some:
            continue
        cards = "".join(change_card(change) for change in some[:_CHANGED])
        rows = [
            [c.new.item.key, c.old.caption.text, c.new.caption.text,
             "; ".join(told(c.old, f) for f in c.gone), "; ".join(told(c.new, f) for f in c.come)]
            for c in some[:_ROWS]
        ]  # fmt: skip
        table = _table(["picture", "before", "now", "gone", "come"], rows)
        parts.append(
            f"<h3>{name}</h3><div class='cards'>{cards}</div><details><summary>The first "
            f"{len(rows)} of {len(some)}</summary>{table}</details>"
        )
    return "".join(parts)


def _galleries(audit: Audit, room: int) -> str:
    ranked = {kind: worst(audit, kind) for kind in KINDS}
    present = {kind: found for kind, found in ranked.items() if found}
    each = min(_OF_A_KIND, room // max(1, len(present)))
    parts: list[str] = []
    for kind, found in present.items():
        cards = "".join(finding_card(one, findings) for one, findings in found[:each])
        parts.append(
            f"<h2>{escaped(kind.capitalize())}: {min(each, len(found))} of {len(found)} "
            f"pictures</h2><p class='note'>{escaped(_MEANINGS[kind].format(**audit.settings))}"
            f"</p><div class='cards'>{cards}</div>"
        )
    return "".join(parts)


def worst(audit: Audit, kind: str) -> list[tuple[Audited, list[Finding]]]:
    """Return the pictures with findings of a kind, and those, the most severe first."""
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
    head = "".join(f"<th scope='col'>{escaped(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td dir='auto'>{escaped(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f"<div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


_STYLE = """
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; color: #1d2433; background: #f6f7f9; }
main { max-width: 84rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem; }
.note { max-width: 48rem; margin: .3rem 0 1rem; font-size: .9rem; color: #4b5565; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .2rem .8rem .2rem 0; text-align: start; vertical-align: top;
  border-bottom: 1px solid #d5dae2; }
summary { margin: .75rem 0; cursor: pointer; }
.diagrams { display: flex; flex-wrap: wrap; gap: 2rem; }
.diagrams figure { width: 20rem; max-width: 100%; margin: 0; }
.diagrams figcaption { font-size: .875rem; }
.diagrams rect { fill: #0b6bcb; } .diagrams circle { fill: #c6342b; }
.diagrams path { fill: none; stroke: #5b6576; } .diagrams text { font-size: 10px; fill: #5b6576; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
  gap: 1rem; align-items: start; }
.cards .regard { min-width: 0; }
.cards h3 { margin: 0 0 .5rem; font-size: .85rem; overflow-wrap: anywhere; color: var(--quiet); }
.cards .finding { margin: .2rem 0; padding-left: .6rem; border-left: 3px solid var(--fault); }
.cards .other { margin: .4rem 0; }
.cards mark { color: inherit; background: none; border-bottom: .2rem solid var(--fault); }
.cards ul { margin: .5rem 0; padding-left: 1.1rem; font-size: .875rem; }
.cards li { overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { color: #eef1f6; background: #0b0e13; }
  .note, .diagrams figcaption { color: #a3acba; } th, td { border-color: #3d4757; }
  .diagrams rect { fill: #4c9df0; } .diagrams circle { fill: #ff7a6e; }
  .diagrams path { stroke: #a3acba; } .diagrams text { fill: #a3acba; }
}
"""
