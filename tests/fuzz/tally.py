"""The report of one part of the fault injection."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of tried faults and their outcomes.

    Attributes:
        tried: inputs, kills, requests or other faults.
        handled: faults with a correct result or the documented error.
        lost: faults after which data that had been written, accepted or requested were missing,
            wrong or another's.
        uncaught: exceptions other than `RegardError`, hangs, and processes that died.
        figures: further figures, such as "p99 of 40,000 requests 310 ms".
        troubles: one line for each lost or uncaught fault.
    """

    tried: int = 0
    handled: int = 0
    lost: int = 0
    uncaught: int = 0
    figures: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        """Return the sum of the counts."""
        return Tally(
            self.tried + other.tried,
            self.handled + other.handled,
            self.lost + other.lost,
            self.uncaught + other.uncaught,
            [*self.figures, *other.figures],
            [*self.troubles, *other.troubles],
        )

    def handle(self) -> None:
        """Count a fault that was handled."""
        self.tried += 1
        self.handled += 1

    def lose(self, what: str) -> None:
        """Count a fault after which something was lost."""
        self.tried += 1
        self.lost += 1
        self.troubles.append(f"lost: {what}")

    def miss(self, what: str) -> None:
        """Count a fault that was not handled."""
        self.tried += 1
        self.uncaught += 1
        self.troubles.append(f"uncaught: {what}")
