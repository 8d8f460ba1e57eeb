"""What a run leaves behind for people: JSON lines, TensorBoard events, and its reporter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from regard.data.dataset import CaptionDataset
from regard.explain.diary import Diary, DiaryCaption, DiaryEntry, DiaryPicture
from regard.explain.maps import tiled
from regard.text.vocabulary import Vocabulary
from regard.training.evaluation import Evaluation
from regard.training.inputs import Pictures
from regard.util.atomic import whole_file


class Reporter(Protocol):
    """Whoever watches a run: the command line's progress bar, a notebook, nobody."""

    def progress(
        self,
        step: int,
        steps: int,
        captions_per_second: float,
        losses: dict[str, float],
        seconds_left: float,
    ) -> None:
        """A step was made."""

    def encoded(self, done: int, wanted: int) -> None:
        """So many views of pictures (mirrored ones count) are in the store."""

    def evaluated(
        self, epoch: int, scores: dict[str, float], samples: list[tuple[str, str]]
    ) -> None:
        """An epoch was evaluated; samples are (file, caption)."""

    def message(self, text: str) -> None:
        """Something worth a line."""


class Silent:
    """A reporter for runs that nobody watches."""

    def progress(
        self,
        step: int,
        steps: int,
        captions_per_second: float,
        losses: dict[str, float],
        seconds_left: float,
    ) -> None:
        """Say nothing."""

    def encoded(self, done: int, wanted: int) -> None:
        """Say nothing."""

    def evaluated(
        self, epoch: int, scores: dict[str, float], samples: list[tuple[str, str]]
    ) -> None:
        """Say nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""


class NoLog:
    """The log of a process that writes none."""

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Do nothing."""


class RunLog:
    """`log.jsonl` and TensorBoard events of one run; a resumed run goes on in both."""

    def __init__(self, folder: Path, resumed_at: int, epoch: int = 0) -> None:
        """Open the logs.

        Args:
            folder: the run's folder.
            resumed_at: steps that the resumed state has made; later lines, which the killed
                run wrote and this one writes again, are dropped.
            epoch: that the resumed state is in; evaluations after it are dropped likewise.
        """
        self._path = folder / "log.jsonl"
        kept = _lines_up_to(self._path, resumed_at, epoch)
        with whole_file(self._path) as new:
            new.write_text("".join(kept), "utf-8")
        self._tensorboard = _tensorboard(folder / "tensorboard", resumed_at)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one record; numbers also go to TensorBoard."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step} | values, ensure_ascii=False) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush what is pending."""
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
            continue  # the line that the kill cut in two
    return kept


def _tensorboard(folder: Path, resumed_at: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # the JSON lines hold the same numbers
    return SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)


class DiaryKeeper:
    """Writes `diary.html` anew after each evaluation."""

    def __init__(self, folder: Path, val: CaptionDataset, pictures: int, epoch: int | None) -> None:
        """Choose the pictures, evenly over the val split.

        Args:
            folder: the run's folder.
            val: the val split.
            pictures: how many.
            epoch: that the run is resumed in; later entries of a killed run are dropped. None:
                the run begins.
        """
        step = max(1, len(val.items) // max(1, pictures))
        self.items = val.items[::step][:pictures]
        self._diary = Diary(folder / "diary.html", up_to_epoch=epoch)

    def add(
        self, epoch: int, evaluation: Evaluation, vocabulary: Vocabulary, source: Pictures
    ) -> None:
        """Add one evaluation and rewrite the page."""
        pictures: list[DiaryPicture] = []
        said: dict[str, DiaryCaption] = {}
        for item in self.items:
            found = evaluation.hypotheses[item.key]
            media = source.media(item.file)
            picture, grid, cells = tiled(media, source.encoder.prepare(media).grid)
            words = [vocabulary.word(token) for token in found.tokens]
            pictures.append(DiaryPicture(item.key, picture.pixels, grid))
            chosen = None
            if found.location is not None:
                chosen = [int(np.flatnonzero(cells == cell)[0]) for cell in found.location]
            said[item.key] = DiaryCaption(words, found.alpha[:, cells], chosen)
        self._diary.add(DiaryEntry(epoch, evaluation.scores, said), pictures)
