"""Changes between two models' mistakes, and an audit as CSV and JSON."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from regard.audit.mistakes import Audit, AuditedPicture, Finding
from regard.text.words import word_class


@dataclass(frozen=True)
class Change:
    """One picture that two models make different mistakes on.

    Attributes:
        new: the audited model's picture.
        old: the other model's.
        fixed: mistakes of the old caption that the new one does not make.
        introduced: mistakes of the new caption that the old one does not make.
    """

    new: AuditedPicture
    old: AuditedPicture
    fixed: tuple[Finding, ...]
    introduced: tuple[Finding, ...]

    @property
    def gain(self) -> int:
        """By how many mistakes the new caption is better."""
        return len(self.old.mistakes) - len(self.new.mistakes)


def changes(new: Audit, old: Audit) -> list[Change]:
    """Return the pictures on which two models differ in mistakes, the most improved first.

    Args:
        new: audit of the model.
        old: audit of the model to compare with; pictures that only one captioned are left out.
    """
    before = {one.item.key: one for one in old.pictures}
    found = [
        Change(one, other, _without(other, one), _without(one, other))
        for one in new.pictures
        if (other := before.get(one.item.key)) is not None
    ]
    differing = [change for change in found if change.fixed or change.introduced]
    return sorted(differing, key=lambda change: (-change.gain, change.new.item.key))


def _without(one: AuditedPicture, other: AuditedPicture) -> tuple[Finding, ...]:
    """Return the mistakes of one caption that another does not make as often."""
    left = Counter(_identity(finding) for finding in other.mistakes)
    kept: list[Finding] = []
    for finding in one.mistakes:
        if left[_identity(finding)]:
            left[_identity(finding)] -= 1
        else:
            kept.append(finding)
    return tuple(kept)


def _identity(finding: Finding) -> tuple[str, ...]:
    """Return a mistake's key: kind and words, or kind and name of a missed thing."""
    missed = finding.wanted if finding.kind == "missed" else ()
    return (finding.kind, finding.said, finding.noun, *missed)


def report_csv(audit: Audit) -> str:
    """Return one row for each finding, with its texts as `plain_cell` gives them."""
    heads = ["picture", "kind", "word", "position", "noun", "wanted", "p", "severity", "caption"]
    rows: list[list[Any]] = []
    for one in audit.pictures:
        for f in one.findings:
            p = "" if f.place is None else f"{math.exp(one.spoken[f.place].logprob):.4f}"
            place = "" if f.place is None else f.place + 1
            wanted = " / ".join(f.wanted)
            texts = [plain_cell(text) for text in (one.item.key, f.kind, f.said)]
            noun, wanted, caption = map(plain_cell, (f.noun, wanted, one.caption.text))
            rows.append([*texts, place, noun, wanted, p, f"{f.severity:.4f}", caption])
    return csv_table(heads, rows)


def csv_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([heads, *rows])
    return buffer.getvalue()


def plain_cell(text: str) -> str:
    """Prefix a text with an apostrophe if a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def report_json(audit: Audit, against: Audit | None = None) -> dict[str, Any]:
    """Return everything as plain values, without the captions' maps.

    Args:
        audit: audit of the model.
        against: audit of a model to compare with.
    """
    record = _totals_json(audit) | {"pictures": [_picture_json(one) for one in audit.pictures]}
    if against is None:
        return record
    changed = changes(audit, against)
    compared = _totals_json(against) | {
        "better": [c.new.item.key for c in changed if c.gain > 0],
        "worse": [c.new.item.key for c in reversed(changed) if c.gain < 0],
        "changes": [_change_json(change) for change in changed],
    }
    return record | {"against": compared}


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "picture": change.new.item.key,
        "gain": change.gain,
        "caption": change.new.caption.text,
        "against": change.old.caption.text,
        "gone": [asdict(finding) for finding in change.fixed],
        "come": [asdict(finding) for finding in change.introduced],
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


def _picture_json(one: AuditedPicture) -> dict[str, Any]:
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
