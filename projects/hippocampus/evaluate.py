"""Evaluation on held-out scans: true facts, text scores, and attention against the masks.

A caption is right about a fact if it states its class; a missing or contradictory statement is
wrong. Baselines that need no training are computed here: the
majority text, and the caption of the nearest training scan by voxels, by the size of the crop and
by the model's mean annotation.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import regard
from projects.hippocampus.data import FactBook, load_facts, read_marked_scan
from projects.hippocampus.facts import FACTS, MarkedScan, most_frequent_classes
from projects.hippocampus.text import stated_facts, write_caption
from projects.hippocampus.volume_pointing import (
    SPOKEN,
    PartAttention,
    attention_on_parts,
    mask_priors,
)
from regard import Caption, Captioner
from regard.data import load_dataset
from regard.metrics import score_captions
from regard.types import Media

Rows = list[dict[str, object]]
"""A table: every row has the same columns."""


@dataclass(frozen=True)
class Evaluation:
    """The tables of docs/volumes.md.

    Attributes:
        scans: evaluated.
        tables: "facts", "scores" and "attention", each with its rows.
        texts: captions by kind of text and name of the scan.
    """

    scans: int
    tables: dict[str, Rows]
    texts: dict[str, dict[str, str]]


def evaluate_model(
    folder: Path,
    *,
    model: str = "hippocampus-soft",
    controls: Mapping[str, str] | None = None,
    split: str = "test",
    beam: int = 1,
    tokenizer: str = "auto",
) -> Evaluation:
    """Evaluate a model, controls and baselines.

    Args:
        folder: written by `projects.hippocampus.data.write_data`.
        model: as `regard.load` takes it; its attention is compared with the masks.
        controls: further models by name, of which only the captions are scored.
        split: "train", "val" or "test", of which the real scans are captioned.
        beam: width; 1 is greedy.
        tokenizer: as `regard.metrics.score_captions` takes it.
    """
    book = load_facts(folder / "facts.json")
    references = {
        Path(item.key).name: list(item.captions)
        for item in load_dataset(folder / "dataset.json", folder).items
    }
    training, wanted = book.real_scans("train"), book.real_scans(split)
    captioner = regard.load(model)
    media = {key: captioner.encoder.read(folder / "scans" / key) for key in training + wanted}
    captions = write_captions(captioner, [media[key] for key in wanted], beam)
    texts = {"model": {k: c.text for k, c in zip(wanted, captions, strict=True)}}
    for name, control in (controls or {}).items():
        made = write_captions(regard.load(control), [media[key] for key in wanted], beam)
        texts[name] = {k: c.text for k, c in zip(wanted, made, strict=True)}
    texts |= baselines(captioner, media, book, training, wanted, references)
    tables = {
        "facts": fact_rows(texts, book),
        "scores": score_rows(texts, {k: references[k] for k in wanted}, tokenizer),
        "attention": attention_rows(captioner, media, captions, folder, training, wanted),
    }
    return Evaluation(len(wanted), tables, texts)


def write_captions(model: Captioner, media: list[Media], beam: int) -> list[Caption]:
    """Return the model's captions."""
    options = {"method": "greedy"} if beam == 1 else {"beam": beam}
    return model.caption(media, **options)


def baselines(
    model: Captioner,
    media: dict[str, Media],
    book: FactBook,
    training: list[str],
    wanted: list[str],
    references: dict[str, list[str]],
) -> dict[str, dict[str, str]]:
    """Return the texts of the baselines that need no training."""
    most = majority_text(book, training)
    voxels = {key: model.encoder.prepare(m).pixels for key, m in media.items()}
    sizes = {key: np.array(m.pixels.shape, float) for key, m in media.items()}
    features = {key: np.asarray(model.annotate([m]).vectors[0]).mean(0) for key, m in media.items()}
    made = {"majority text": dict.fromkeys(wanted, most)}
    for name, vectors in (("voxels", voxels), ("crop size", sizes), ("features", features)):
        made[f"nearest by {name}"] = nearest_texts(vectors, training, wanted, references)
    return made


def fact_rows(texts: dict[str, dict[str, str]], book: FactBook) -> Rows:
    """Return a row for each fact: the share of all scans of which it is right."""
    scores = {name: score_facts(captions, book) for name, captions in texts.items()}
    rows: Rows = []
    for fact in FACTS:
        stated = scores["model"][fact.name]
        row: dict[str, object] = {"fact": fact.name, "stated": stated.stated / stated.scans}
        rows.append(row | {name: of[fact.name].accuracy for name, of in scores.items()})
    stated = float(np.mean([row["stated"] for row in rows]))  # type: ignore[arg-type]
    means = {name: mean_accuracy(of) for name, of in scores.items()}
    return [*rows, {"fact": "mean", "stated": stated} | means]


def score_rows(
    texts: dict[str, dict[str, str]], references: dict[str, list[str]], tokenizer: str
) -> Rows:
    """Return a row of text scores × 100 for each kind of text."""
    return [
        {"text": name} | score_captions(captions, references, tokenizer=tokenizer).values
        for name, captions in texts.items()
    ]


def attention_rows(
    model: Captioner,
    media: dict[str, Media],
    captions: list[Caption],
    folder: Path,
    training: list[str],
    wanted: list[str],
) -> Rows:
    """Return a row for each word that names a part."""

    def marked(key: str) -> MarkedScan:
        return read_marked_scan(folder / "scans" / key, folder / "masks" / key)

    grids = {key: model.encoder.prepare(media[key]).grid for key in training}
    priors = mask_priors([(marked(key), grids[key]) for key in training])
    found: dict[str, list[PartAttention]] = defaultdict(list)
    for key, caption in zip(wanted, captions, strict=True):
        for attention in attention_on_parts(caption, marked(key), priors):
            found[attention.word].append(attention)
    rows: Rows = []
    for word in SPOKEN:
        of_word = found[word]
        if of_word:
            points, priored = [a.pointing for a in of_word], [a.prior for a in of_word]
            rows.append(
                {
                    "word": word,
                    "mentions": len(of_word),
                    "mass": mean([p.mass for p in points]),
                    "uniform mass": mean([p.uniform_mass for p in points]),
                    "prior mass": mean([p.mass for p in priored]),
                    "pointing": mean([p.hit for p in points]),
                    "uniform": mean([p.uniform_hit for p in points]),
                    "middle": mean([p.middle_hit for p in points]),
                    "prior": mean([p.hit for p in priored]),
                    "peak to part, mm": mean([a.distance for a in of_word]),
                }
            )
    return rows


@dataclass(frozen=True)
class FactScore:
    """Counts of how often a fact was stated and how often it was right.

    Attributes:
        scans: that were captioned.
        stated: scans whose caption states the fact.
        right: scans of which the stated class is the true one.
    """

    scans: int
    stated: int
    right: int

    @property
    def accuracy(self) -> float:
        """Right ones among all scans: a fact that is not stated is not right."""
        return self.right / self.scans


def score_facts(captions: Mapping[str, str], book: FactBook) -> dict[str, FactScore]:
    """Return each fact's score.

    Args:
        captions: a text by the name of the scan.
        book: the true classes.
    """
    said = {key: stated_facts(text, book.thresholds) for key, text in captions.items()}
    return {
        fact.name: FactScore(
            len(said),
            sum(fact.name in of_scan for of_scan in said.values()),
            sum(book.classes[key][fact.name] == facts.get(fact.name)
                for key, facts in said.items()),
        )
        for fact in FACTS
    }  # fmt: skip


def mean_accuracy(scores: Mapping[str, FactScore]) -> float:
    """Return the mean over facts."""
    return float(np.mean([score.accuracy for score in scores.values()]))


def majority_text(book: FactBook, training: Sequence[str]) -> str:
    """Return a caption that states every fact's most frequent class among training scans."""
    most = {name: found for name, (found, _) in most_frequent_classes(
        book.classes[key] for key in training).items()}  # fmt: skip
    return write_caption(most, book.thresholds, random.Random(0))


def nearest_texts(
    vectors: Mapping[str, np.ndarray],
    training: Sequence[str],
    wanted: Sequence[str],
    references: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """Return for each scan a caption of the nearest training scan.

    Args:
        vectors: vectors of every scan, such as its voxels, its size or its features.
        training: names of the training scans.
        wanted: names of the scans to caption.
        references: captions of the training scans.
    """
    known = np.stack([vectors[key].reshape(-1) for key in training])
    texts: dict[str, str] = {}
    for key in wanted:
        distances = ((known - vectors[key].reshape(-1)) ** 2).sum(1)
        texts[key] = references[training[int(distances.argmin())]][0]
    return texts


def mean(values: list[float] | list[bool]) -> float:
    """Return the mean."""
    return float(np.mean(values))


def table(rows: Rows) -> str:
    """Return rows as a Markdown table."""
    if not rows:
        return "(none)"
    head = list(rows[0])
    lines = [head, ["---"] * len(head)]
    lines += [
        [f"{row[key]:.3f}" if isinstance(row[key], float) else str(row[key]) for key in head]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
