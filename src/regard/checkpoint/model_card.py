"""The model card of a checkpoint."""

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
        f"{_input(config)}.",
        f"- Decoder: LSTM {decoder['hidden_dim']}, {words} words, objective "
        f"{recipe['objective']['kind']}.",
        *_start_lines(recipe.get("training", {})),
        *_data_lines(recipe["data"]),
        *_familiarity_lines(config),
        f"- Made by regard {config['regard_version']}, recipe `{recipe['name']}`.",
        "",
        *_score_lines(metrics),
        "## Limits",
        "",
        _LIMITS.get(config["medium"], _PICTURE_LIMITS) + " Its maps show where the decoder looked, "
        "not what mattered for a word.",
        "",
    ]
    return "\n".join(lines)


_PICTURE_LIMITS = (
    "It says what its training captions would say: it counts badly, guesses colours and genders, "
    "and describes what it does not know as something it knows."
)
_LIMITS = {
    "volume": (
        "**Not for clinical use.** It says what its training captions would say, of any scan: a "
        "finding that they never spoke of is not seen, and of a scan of another organ, device or "
        "group of people it speaks as of those it knows."
    )
}


def _input(config: dict[str, Any]) -> str:
    """Describe the network's input."""
    encoder = config["recipe"]["encoder"]
    if config["medium"] != "volume":
        return f"{encoder['image_size']} pixels ({encoder['resize']})"
    volume = encoder["volume"]
    shape, spacing = ("×".join(f"{v:g}" for v in volume[key]) for key in ("shape", "spacing"))
    at = f"of {spacing} mm" if spacing else "that the whole scan is squashed into"
    return f"{shape} voxels {at} (slices×rows×cols), window {volume['window']}"


def _familiarity_lines(config: dict[str, Any]) -> list[str]:
    known = config.get("familiarity")
    if known is None:
        return []
    return [f"- Says so where an input is unlike the {known['items']} training items looked at."]


def _start_lines(training: dict[str, Any]) -> list[str]:
    name = training.get("init_from")
    return [f"- Fine-tuned from {name}: its words, and those of the new captions."] if name else []


def _data_lines(data: dict[str, Any]) -> list[str]:
    """Name the captions, without their path on the training machine."""
    name = Path(data["annotations"]).name
    lines = [f"- Trained on the captions of {name}."] if name else []
    return [*lines, f"- {data['credit']}"] if data.get("credit") else lines


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
