"""Progress on standard error: bars on a terminal, else an occasional line or no output.

rich takes long to import, and output to a pipe or file does not need it: it is imported late.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Self, TypeVar

from regard.cli.output import complain
from regard.util.shown_text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from regard.bulk import BulkRun, FinishedUnit

T = TypeVar("T")

_BAR_FROM = 10  # items; fewer are done before a bar can be read
_LINE_EVERY = 30.0  # seconds between lines where there is no terminal
_NAME = 32  # characters of a file's name beside its bar


def error_console() -> Console | None:
    """Return the console of standard error, or None if it is not a terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal else None


class ProgressDisplay:
    """Named bars on a console; without one, a line every half minute if there is a writer."""

    def __init__(
        self,
        console: Console | None,
        *,
        write: Callable[[str], None] | None = None,
        counts: bool = True,
    ) -> None:
        """Store the arguments.

        Args:
            console: a terminal, or None.
            write: writes a line where there is no terminal.
            counts: whether a bar shows counts and the time left; else its text does.
        """
        self._console, self._write, self._counts = console, write, counts
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lock = Lock()  # several threads may report
        self._last_line = time.monotonic()

    def show(self, name: str, text: str, done: int, total: int | None) -> None:
        """Update a bar, which is made at its first call, or write its text as a line if due."""
        text = printable(text)
        with self._lock:
            if self._console is not None:
                bars = self._bars = self._bars or self._started(self._console)
                if name not in self._tasks:
                    self._tasks[name] = bars.add_task(text, total=total)
                bars.update(self._tasks[name], description=text, completed=done, total=total)
            elif self._write is not None and time.monotonic() - self._last_line >= _LINE_EVERY:
                self._last_line = time.monotonic()
                self._write(text)

    def remove(self, name: str | None) -> None:
        """Remove a bar if there is one."""
        with self._lock:
            if self._bars is not None and name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))

    def __enter__(self) -> Self:
        """Return the display."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all bars."""
        if self._bars is not None:
            self._bars.stop()

    def _started(self, console: Console) -> Progress:
        from rich import progress

        counts = progress.MofNCompleteColumn(), progress.TimeRemainingColumn()
        bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            *(counts if self._counts else ()),
            console=console,
            transient=True,
            # Lines for a terminal go above the bar; lines for a file or pipe must still reach it.
            redirect_stdout=sys.stdout.isatty(),
        )
        bars.start()
        return bars


@contextmanager
def reporting() -> Generator[Callable[[str, int, int], None]]:
    """Yield a function (what, done, total) that shows on one bar what is being done."""
    with ProgressDisplay(error_console()) as display:
        yield lambda what, done, total: display.show("", what, done, total)


class FileProgress(ProgressDisplay):
    """Bars of files that are being read, and one of all items if there are many."""

    def __init__(self, what: str, total: int | None) -> None:
        """Store the arguments.

        Args:
            what: the activity, such as "captioning".
            total: number of items; None where it is unknown.
        """
        super().__init__(error_console())
        self._what, self._total = what, total

    def report(self, name: str, done: int, total: int) -> None:
        """Show how much of a file is read, then that it is being processed."""
        what = "reading" if done < total else self._what
        self.show(name, f"{what} {os.path.basename(name)[-_NAME:]}", done, total)

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items unchanged; remove the bar of each one's file."""
        many = self._total is None or self._total >= _BAR_FROM
        with self:
            if many:
                self.show("", self._what, 0, self._total)
            for done, item in enumerate(items, 1):
                yield item
                self.remove(getattr(item, "file", None))
                if many:
                    self.show("", self._what, done, self._total)


class BulkProgress(ProgressDisplay):
    """Progress of a bulk run: finished items, speed, and the time left."""

    def __init__(self, run: BulkRun) -> None:
        self._began = time.monotonic()
        super().__init__(error_console(), write=complain, counts=False)
        self._plan = run.plan
        self.units, self.rows, self.failed = run.there
        self.new_units = self.new_rows = 0

    def watch(self, units: Iterable[FinishedUnit]) -> Iterator[FinishedUnit]:
        """Yield units unchanged, and count them."""
        with self:
            self.show("", "captioning", self.units, self._plan.units)
            for unit in units:
                self.units += 1
                self.new_units += 1
                self.new_rows += unit.rows
                self.rows += unit.rows
                self.failed += unit.failed
                self.show("", self.line(), self.units, self._plan.units)
                yield unit

    def line(self) -> str:
        """Return the progress in words."""
        seconds = time.monotonic() - self._began
        rate = self.new_rows / seconds if seconds else 0.0
        items, units = self._plan.items, self._plan.units
        of = f"of {items:,}" if items is not None else "items"
        share = f", unit {self.units:,} of {units:,}" if items is None else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.rows:,} {of}{share}{failed}, {rate:.1f}/s, {self._left(seconds)} left"

    def _left(self, seconds: float) -> str:
        done, left = self.new_rows, (self._plan.items or 0) - self.rows
        if self._plan.items is None:  # the units left probably have as many items as those done
            done, left = self.new_units, self._plan.units - self.units
        hours, rest = divmod(round(max(0.0, seconds * left / done if done else 0.0)), 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


class TrainingProgress(ProgressDisplay):
    """A training run's `Reporter`: progress, scores, and a few captions as they change."""

    def __init__(self, console: Console) -> None:
        terminal = console if console.is_terminal else None
        super().__init__(terminal, write=self.message, counts=False)
        self._messages = console

    def progress(
        self,
        step: int,
        steps: int,
        captions_per_second: float,
        losses: dict[str, float],
        seconds_left: float,
    ) -> None:
        """Show the step, the speed, the losses and the time left."""
        parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
        left = timedelta(seconds=round(seconds_left))
        text = f"{captions_per_second:.0f} captions/s, {parts}, {left} left"
        self.show("step", f"step {step}/{steps}: {text}", step, steps)

    def encoded(self, done: int, wanted: int) -> None:
        """Show how many views are encoded; the bar is removed when all are."""
        self.show("view", f"view {done}/{wanted}: encoding, mirrored views too", done, wanted)
        if done >= wanted:
            self.remove("view")
            self.message(f"encoded {wanted} views")

    def evaluated(
        self, epoch: int, scores: dict[str, float], samples: list[tuple[str, str]]
    ) -> None:
        """Print the scores of an epoch and a few captions."""
        # The loss is in nats, the scores are × 100.
        shown = (f"{name} {v:.3f}" if name == "loss" else f"{name} {v:.1f}"
                 for name, v in scores.items())  # fmt: skip
        self.message(f"epoch {epoch}: {', '.join(shown)}")
        for file, text in samples:
            self.message(f"  {file}: {text}")

    def message(self, text: str) -> None:
        """Print a line."""
        self._messages.print(printable(text), highlight=False, markup=False, soft_wrap=True)
