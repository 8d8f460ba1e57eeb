"""The models that ship with regard, and the lookup of models by name."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from regard.errors import CheckpointError, MissingExtra

DEFAULTS = {"image": "everyday", "video": "flickr8k-soft", "volume": "hippocampus-soft"}
"""The shipped model of each medium, used if none is named."""
FAST = "flickr8k-soft"
"""The shipped model of pictures that is fastest, for millions of them."""


def shipped_models() -> dict[str, Path]:
    """Return the shipped models' folders by name."""
    root = Path(str(files(__name__)))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def shipped_encoders(name: str) -> list[Path]:
    """Return the files of shipped models that hold an encoder's weights, by the encoder's name."""
    found: list[Path] = []
    for folder in shipped_models().values():
        encoder = json.loads((folder / "config.json").read_text("utf-8"))["encoder"]
        if encoder["name"] == name and (folder / "encoder.safetensors").is_file():
            found.append(folder / "encoder.safetensors")
    return found


def find_model(name: str | None = None, medium: str = "image") -> Path:
    """Return the folder of a model.

    Args:
        name: a folder (of a checkpoint, or of a training run, whose best model is then used), a
            shipped model, or a hub id such as "owner/model"; None: the shipped default.
        medium: without a name, the default model of this medium is returned.

    Raises:
        CheckpointError: the model does not exist.
        MissingExtra: it is a hub id and huggingface_hub is not installed.
    """
    shipped = shipped_models()
    name = DEFAULTS[medium] if name is None else name
    folder = Path(name)
    if folder.is_dir():
        is_run = (folder / "best").is_dir() and not (folder / "config.json").exists()
        return folder / "best" if is_run else folder
    if name in shipped:
        return shipped[name]
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    raise CheckpointError(
        f"no model {name!r}: it is neither a folder nor a shipped model (shipped: "
        f"{', '.join(shipped) or 'none'}). A hub id has the form owner/model."
    )


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub", f"loading {name!r} from a hub") from error
    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{name!r} is not a folder, and the hub did not provide it: {error}"
        ) from error
