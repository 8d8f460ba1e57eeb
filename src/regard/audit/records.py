"""An audit for programs: a CSV of its findings, and a JSON of everything but the maps."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict
from typing import Any

from regard.audit.changes import Change, changes
from regard.audit.mistakes import Audit, Audited
from regard.text.words import word_class


def report_csv(audit: Audit) -> str:
    """Return one row for each finding.

    Text that a spreadsheet would run as a formula has an apostrophe before it.
    """
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(
        ["picture", "kind", "word", "position", "noun", "wanted", "p", "severity", "caption"]
    )
    for one in audit.pictures:
        for f in one.findings:
            p = "" if f.place is None else f"{math.exp(one.spoken[f.place].logprob):.4f}"
            place = "" if f.place is None else f.place + 1
            wanted = " / ".join(f.wanted)
            texts = [plain_cell(text) for text in (one.item.key, f.kind, f.said)]
            noun, wanted, caption = map(plain_cell, (f.noun, wanted, one.caption.text))
            rows.writerow([*texts, place, noun, wanted, p, f"{f.severity:.4f}", caption])
    return buffer.getvalue()


def plain_cell(text: str) -> str:
    """Return a text with an apostrophe before it where a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def report_json(audit: Audit, against: Audit | None = None) -> dict[str, Any]:
    """Return everything as plain values, the maps of the captions excepted.

    Args:
        audit: of the model in question.
        against: of a model that it is compared with.
    """
    record = _totals_json(audit) | {"pictures": [_picture_json(one) for one in audit.pictures]}
    if against is None:
        return record
    changed = changes(audit, against)
    return record | {
        "against": _totals_json(against)
        | {
            "better": [c.new.item.key for c in changed if c.gain > 0],
            "worse": [c.new.item.key for c in reversed(changed) if c.gain < 0],
            "changes": [_change_json(change) for change in changed],
        }
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "picture": change.new.item.key,
        "gain": change.gain,
        "caption": change.new.caption.text,
        "against": change.old.caption.text,
        "gone": [asdict(finding) for finding in change.gone],
        "come": [asdict(finding) for finding in change.come],
    }


def _totals_json(audit: Audit) -> dict[str, Any]:
    names = ("class", "said", "wanted", "pictures")
    return {
        "settings": audit.settings,
        "totals": audit.counts(),
        "hallucination": {
            name: value if math.isfinite(value) else None
            for name, value in audit.hallucination().items()
        },
        "reliability": audit.reliability().to_json(),
        "confusions": [dict(zip(names, row, strict=True)) for row in audit.confusions()],
        "failures": audit.failures,
    }


def _picture_json(one: Audited) -> dict[str, Any]:
    words = [
        {"text": word.text, "logprob": word.logprob, "class": word_class(word.text.lower()),
         "supported": ok, "entropy": one.caption.words[word.first].entropy,
         "peak": one.caption.words[word.first].peak}
        for word, ok in zip(one.spoken, one.support, strict=True)
    ]  # fmt: skip
    return {
        "picture": one.item.key,
        "file": one.item.file,
        "caption": one.caption.text,
        "words": words,
        "references": list(one.item.captions),
        "findings": [asdict(finding) for finding in one.findings],
    }
