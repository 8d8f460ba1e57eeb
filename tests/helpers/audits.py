"""Audits of pictures, for tests."""

from __future__ import annotations

from regard.audit.mistakes import Audit, AuditedPicture


def audited(*pictures: AuditedPicture) -> Audit:
    """What a toy model's audit of these pictures would be."""
    settings = {"model": "toy", "split": "val", "pictures": len(pictures), "beam": 1,
                "low_confidence": 0.1, "flat": 0.97, "collapsed": 0.9}  # fmt: skip
    return Audit(settings, pictures, {})
