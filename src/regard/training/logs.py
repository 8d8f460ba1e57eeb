"""Logs of a run: JSON lines, TensorBoard events and the diary; and the reporter of progress."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from regard.data.dataset import CaptionDataset
from regard.explain.diary import Diary, DiaryCaption, DiaryEntry, DiaryPicture
from regard.explain.maps import tiled
from regard.text.vocabulary import Vocabulary
from regard.training.inputs import Pictures
from regard.types import Hypothesis
from regard.util.atomic import write_whole


class Reporter(Protocol):
    """Receives the progress of a run, for example to show a progress bar."""

    def progress(
        self,
        step: int,
        steps: int,
        captions_per_second: float,
        losses: dict[str, float],
        seconds_left: float,
    ) -> None:
        """Report a step."""

    def encoded(self, done: int, wanted: int) -> None:
        """Report how many views of pictures (mirrored ones count) are in the store."""

    def evaluated(
        self, epoch: int, scores: dict[str, float], samples: list[tuple[str, str]]
    ) -> None:
        """Report the evaluation of an epoch; samples are (file, caption)."""

    def message(self, text: str) -> None:
        """Report a line of text."""


class Silent(Reporter):
    """A reporter that ignores everything."""


class RunLog:
    """`log.jsonl`, TensorBoard events and `diary.html` of one run. A resumed run extends them."""

    def __init__(
        self,
        folder: Path,
        resumed_at: int,
        epoch: int = 0,
        val: CaptionDataset | None = None,
        pictures: int = 0,
    ) -> None:
        """Open the logs.

        Args:
            folder: the run's folder.
            resumed_at: steps of the state that is resumed, 0 for a new run. Later lines, which
                the interrupted run wrote and this one writes again, are dropped.
            epoch: epoch of that state; later evaluations are dropped likewise.
            val: the val split, whose pictures the diary shows.
            pictures: how many of them, spread evenly.
        """
        items = val.items if val else ()
        self.items = items[:: max(1, len(items) // max(1, pictures))][:pictures]
        """The pictures of the diary."""
        self._diary = Diary(folder / "diary.html", up_to_epoch=epoch if resumed_at else None)
        self._path = folder / "log.jsonl"
        kept = _lines_up_to(self._path, resumed_at, epoch)
        write_whole(self._path, "".join(kept))
        self._tensorboard = _tensorboard(folder / "tensorboard", resumed_at)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record. Numbers also go to TensorBoard."""
        record = {"kind": kind, "step": step, **values}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def add_to_diary(
        self,
        epoch: int,
        scores: dict[str, float],
        hypotheses: Mapping[str, Hypothesis],
        vocabulary: Vocabulary,
        source: Pictures,
    ) -> None:
        """Add one evaluation to the diary and rewrite its page."""
        pictures: list[DiaryPicture] = []
        said: dict[str, DiaryCaption] = {}
        for item in self.items:
            found = hypotheses[item.key]
            media = source.media(item.file)
            picture, grid, cells = tiled(media, source.encoder.prepare(media).grid)
            words = [vocabulary.word(token) for token in found.tokens]
            pictures.append(DiaryPicture(item.key, picture.pixels, grid))
            chosen = None
            if found.location is not None:
                chosen = [int(np.flatnonzero(cells == cell)[0]) for cell in found.location]
            said[item.key] = DiaryCaption(words, found.alpha[:, cells], chosen)
        self._diary.add(DiaryEntry(epoch, scores, said), pictures)

    def close(self) -> None:
        """Flush the TensorBoard events."""
        if self._tensorboard is not None:
            self._tensorboard.close()


def _lines_up_to(path: Path, step: int, epoch: int) -> list[str]:
    if not path.exists() or step == 0:
        return []
    kept: list[str] = []
    for line in path.read_text("utf-8").splitlines(keepends=True):
        try:
            record = json.loads(line)
            if record["step"] <= step and record.get("epoch", epoch) <= epoch:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the last line of an interrupted run may be incomplete
    return kept


def _tensorboard(folder: Path, resumed_at: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # the JSON lines hold the same numbers
    return SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)
