"""The tables of docs/volumes.md: facts, text scores and attention on held-out hippocampus scans.

    regard data hippocampus FOLDER hippo
    python projects/hippocampus/train_encoder.py hippo encoder.safetensors
    regard train hippocampus-soft --data hippo/dataset.json --images hippo \
        --set encoder.weights=encoder.safetensors
    regard train hippocampus-soft --data hippo/dataset.json --images hippo \
        --set encoder.weights=encoder.safetensors \
        --set decoder.scores=uniform --set name=hippocampus-mean
    python projects/hippocampus/evaluate.py hippo --model runs/hippocampus-soft \
        --control mean-pool=runs/hippocampus-mean

The first model is the one whose attention is compared; a control is NAME=FOLDER. Baselines that
need no training are made here: the majority text, and the nearest training scan by voxels, by the
size of the crop and by the model's mean annotation.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from projects.hippocampus.data import FactBook, load_facts, read_marked
from projects.hippocampus.facts import FACTS, Marked
from projects.hippocampus.rule_facts import (
    SPOKEN,
    Aim,
    aims,
    majority_text,
    mask_priors,
    mean_accuracy,
    nearest_texts,
    score_facts,
)
from regard.captioner import Captioner
from regard.data import load_dataset
from regard.metrics import score_captions
from regard.pretrained import find_model
from regard.types import Caption, Media


def main() -> None:
    """Print the tables; write them and the captions as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="of `regard data hippocampus`")
    parser.add_argument("--model", default="hippocampus-soft")
    parser.add_argument("--control", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--split", default="test")
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--tokenizer", default="auto")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    book = load_facts(asked.folder / "facts.json")
    references = {
        Path(item.key).name: list(item.captions)
        for item in load_dataset(asked.folder / "dataset.json", asked.folder).items
    }
    training = [k for k, split in book.splits.items() if split == "train" and "_copy" not in k]
    wanted = [k for k, split in book.splits.items() if split == asked.split]
    model = Captioner.load(find_model(asked.model))
    media = {key: model.encoder.read(asked.folder / "scans" / key) for key in training + wanted}
    captions = captioned(model, [media[key] for key in wanted], asked.beam)
    texts = {"model": {k: c.text for k, c in zip(wanted, captions, strict=True)}}
    for control in asked.control:
        name, _, folder = control.partition("=")
        made = captioned(Captioner.load(find_model(folder)), [media[k] for k in wanted], asked.beam)
        texts[name] = {k: c.text for k, c in zip(wanted, made, strict=True)}
    texts |= baselines(model, media, book, training, wanted, references)
    report = {
        "facts": fact_rows(texts, book),
        "scores": score_rows(texts, {k: references[k] for k in wanted}, asked.tokenizer),
        "attention": aim_rows(model, media, captions, asked.folder, training, wanted),
    }
    for name, rows in report.items():
        print(f"\n{name} ({asked.split}, {len(wanted)} scans)\n")
        print(table(rows))
    if asked.json:
        asked.json.write_text(json.dumps(report | {"captions": texts}, indent=1), "utf-8")


def captioned(model: Captioner, media: list[Media], beam: int) -> list[Caption]:
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
    """Return the texts of what needs no training of its own."""
    most = majority_text(book, training)
    voxels = {key: model.encoder.prepare(m).pixels for key, m in media.items()}
    sizes = {key: np.array(m.pixels.shape, float) for key, m in media.items()}
    features = {key: np.asarray(model.annotate([m]).vectors[0]).mean(0) for key, m in media.items()}
    made = {"majority text": dict.fromkeys(wanted, most)}
    for name, vectors in (("voxels", voxels), ("crop size", sizes), ("features", features)):
        made[f"nearest by {name}"] = nearest_texts(vectors, training, wanted, references)
    return made


def fact_rows(texts: dict[str, dict[str, str]], book: FactBook) -> list[dict[str, object]]:
    """Return a row per fact: the share that is right, of all scans."""
    scores = {name: score_facts(captions, book) for name, captions in texts.items()}
    rows: list[dict[str, object]] = []
    for fact in FACTS:
        stated = scores["model"][fact.name]
        row: dict[str, object] = {"fact": fact.name, "stated": stated.stated / stated.scans}
        rows.append(row | {name: of[fact.name].accuracy for name, of in scores.items()})
    stated = float(np.mean([row["stated"] for row in rows]))  # type: ignore[arg-type]
    means = {name: mean_accuracy(of) for name, of in scores.items()}
    return [*rows, {"fact": "mean", "stated": stated} | means]


def score_rows(
    texts: dict[str, dict[str, str]], references: dict[str, list[str]], tokenizer: str
) -> list[dict[str, object]]:
    """Return a row of text scores × 100 for each kind of text."""
    return [
        {"text": name} | score_captions(captions, references, tokenizer=tokenizer).values
        for name, captions in texts.items()
    ]


def aim_rows(
    model: Captioner,
    media: dict[str, Media],
    captions: list[Caption],
    folder: Path,
    training: list[str],
    wanted: list[str],
) -> list[dict[str, object]]:
    """Return a row for each word that names a part."""

    def marked(key: str) -> Marked:
        return read_marked(folder / "scans" / key, folder / "masks" / key)

    grids = {key: model.encoder.prepare(media[key]).grid for key in training}
    priors = mask_priors([(marked(key), grids[key]) for key in training])
    found: dict[str, list[Aim]] = defaultdict(list)
    for key, caption in zip(wanted, captions, strict=True):
        for aim in aims(caption, marked(key), priors):
            found[aim.word].append(aim)
    rows: list[dict[str, object]] = []
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


def mean(values: list[float] | list[bool]) -> float:
    """Return the mean."""
    return float(np.mean(values))


def table(rows: list[dict[str, object]]) -> str:
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


if __name__ == "__main__":
    main()
