"""Keeps the learning diary: fixed val pictures, and what is said of them as the run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from regard.data.dataset import CaptionDataset
from regard.explain.diary import Diary, DiaryEntry, DiaryPicture, Said
from regard.explain.tiles import tiled
from regard.text.vocabulary import Vocabulary
from regard.training.evaluation import Evaluation
from regard.training.inputs import Pictures


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
        said: dict[str, Said] = {}
        for item in self.items:
            found = evaluation.hypotheses[item.key]
            media = source.media(item.file)
            picture, grid, cells = tiled(media, source.encoder.prepare(media).grid)
            words = [vocabulary.word(token) for token in found.tokens]
            pictures.append(DiaryPicture(item.key, picture.pixels, grid))
            chosen = None
            if found.location is not None:
                chosen = [int(np.flatnonzero(cells == cell)[0]) for cell in found.location]
            said[item.key] = Said(words, found.alpha[:, cells], chosen)
        self._diary.add(DiaryEntry(epoch, evaluation.scores, said), pictures)
