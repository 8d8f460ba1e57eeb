"""What got better and worse between two models: their mistakes on the same pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from regard.audit.mistakes import Audit, Audited, Finding


@dataclass(frozen=True)
class Change:
    """One picture that two models make different mistakes on.

    Attributes:
        new: the audited model's caption.
        old: the other's.
        gone: mistakes of the old caption that the new one does not make.
        come: mistakes of the new caption that the old one does not make.
    """

    new: Audited
    old: Audited
    gone: tuple[Finding, ...]
    come: tuple[Finding, ...]

    @property
    def gain(self) -> int:
        """By how many mistakes the new caption is better."""
        return len(self.old.mistakes) - len(self.new.mistakes)


def changes(new: Audit, old: Audit) -> list[Change]:
    """Return the pictures on which two models differ in mistakes, the most improved first.

    Args:
        new: of the model in question.
        old: of the model that it is set against; pictures that only one captioned are left out.
    """
    before = {one.item.key: one for one in old.pictures}
    found = [
        Change(one, other, _without(other, one), _without(one, other))
        for one in new.pictures
        if (other := before.get(one.item.key)) is not None
    ]
    differing = [change for change in found if change.gone or change.come]
    return sorted(differing, key=lambda change: (-change.gain, change.new.item.key))


def _without(one: Audited, other: Audited) -> tuple[Finding, ...]:
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
    """What makes two findings the same mistake: kind and words; of what was missed the thing."""
    missed = finding.wanted if finding.kind == "missed" else ()
    return (finding.kind, finding.said, finding.noun, *missed)
