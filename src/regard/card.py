"""The model card that every checkpoint carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

METRIC_LABELS = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "spice": "SPICE",
}
"""How each score is called, in the usual order."""


def model_card(config: dict[str, Any], metrics: dict[str, Any], words: int) -> str:
    """Return the card as Markdown, with the front matter that model hubs read.

    Args:
        config: what `config.json` holds.
        metrics: `scores` and their `settings`, as evaluation writes them; may be empty.
        words: size of the vocabulary.
    """
    recipe, encoder = config["recipe"], config["encoder"]
    decoder = recipe["decoder"]
    grid = "×".join(map(str, encoder["grid_shape"]))
    lines = [
        "---",
        "library_name: regard",
        "pipeline_tag: image-to-text",
        "---",
        f"# {config['name']}",
        "",
        f"Captions {config['medium']}s with {decoder['attention']} attention "
        f"({decoder['scores']} scores) over a {grid} grid.",
        "",
        f"- Encoder: {encoder['name']}, {encoder['annotation_dim']} features, "
        f"{'fine-tuned' if recipe['encoder']['trainable'] else 'frozen'}, input "
        f"{recipe['encoder']['image_size']} pixels ({recipe['encoder']['resize']}).",
        f"- Decoder: LSTM {decoder['hidden_dim']}, {words} words, objective "
        f"{recipe['objective']['kind']}.",
        *_data_lines(recipe["data"]),
        f"- Made by regard {config['regard_version']}, recipe `{recipe['name']}`.",
        "",
        *_score_lines(metrics),
        "## Limits",
        "",
        "It says what its training captions would say: it counts badly, guesses colours and "
        "genders, and describes what it does not know as something it knows. Its maps show where "
        "the decoder looked, not what mattered for a word.",
        "",
    ]
    return "\n".join(lines)


def _data_lines(data: dict[str, Any]) -> list[str]:
    """Name the captions, not the place where they lay on one machine."""
    name = Path(data["annotations"]).name
    return [f"- Trained on the captions of {name}."] if name else []


def _score_lines(metrics: dict[str, Any]) -> list[str]:
    scores: dict[str, float] = metrics.get("scores") or {}
    known = [
        (label, scores[key]) for key, label in METRIC_LABELS.items() if scores.get(key) is not None
    ]
    if not known:
        return []
    settings = ", ".join(f"{k} {v}" for k, v in (metrics.get("settings") or {}).items())
    return [
        "## Scores",
        "",
        f"× 100; {settings}.",
        "",
        *(f"- {label}: {value:.1f}" for label, value in known),
        "",
    ]
