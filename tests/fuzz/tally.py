"""The report of one part of the fault injection."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """How many faults were tried, and what became of them.

    Attributes:
        tried: inputs, kills, requests or other faults.
        handled: those after which the result was right, or the error was the one that is promised.
        lost: those after which something that had been written, accepted or asked for was gone,
            wrong or another's.
        uncaught: exceptions other than `RegardError`, hangs, and processes that died unasked.
        figures: what a reader should know beside the counts: "p99 of 40,000 requests 310 ms".
        troubles: one line for each of lost and uncaught: what was tried, and what happened.
    """

    tried: int = 0
    handled: int = 0
    lost: int = 0
    uncaught: int = 0
    figures: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        """Return the counts of both."""
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
