"""Views of a training picture: as it is, mirrored, or a random part of it.

A view is known by its name, from which the same pixels come at any time, on any machine: the store
keeps the annotations of every view, and the next run finds them.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch

from regard.config import DataConfig, Recipe
from regard.errors import ConfigError
from regard.types import Media

_LEAST_SIDE = 0.75  # of the picture's; people describe the whole, which should stay in view
_CROP = "crop"


def views_of(config: DataConfig) -> list[str]:
    """Return the names of all views of a training picture, "plain" first.

    Of the views "crop1", "crop2", ... every second one is mirrored where pictures may be.
    """
    flip = ["flip"] if config.flip else []
    mirror = ["", "-flip"] if config.flip else [""]
    crops = [f"{_CROP}{k + 1}{mirror[k % len(mirror)]}" for k in range(config.crops)]
    return ["plain", *flip, *crops]


def check_views(recipe: Recipe) -> None:
    """Refuse views that a medium does not have.

    A model of pictures that was trained on parts of them may still caption clips, so this is asked
    of a run and not of a recipe.

    Raises:
        ConfigError: parts are wanted of clips or scans.
    """
    crops, medium = recipe.data.crops, recipe.encoder.medium
    if crops and medium != "image":
        raise ConfigError(
            f"data.crops is {crops}, and encoder.medium {medium!r}: only pictures are cut. Set "
            "data.crops to 0."
        )


def draw_views(config: DataConfig, pictures: int, generator: torch.Generator) -> list[str]:
    """Draw a view for each of so many pictures, all views alike."""
    views = views_of(config)
    drawn = torch.randint(len(views), (pictures,), generator=generator)
    return [views[k] for k in drawn.tolist()]


def mirrored(view: str) -> bool:
    """Whether a view is mirrored, left for right."""
    return view.endswith("flip")


def cut(media: Media, view: str) -> Media:
    """Return the part of a picture that a view shows, at its own place and shape.

    Each side is cut to between three quarters and the whole of its length, so that a part is also
    stretched a little. Where it lies depends on the picture and the view's name alone.

    Args:
        media: (height, width, 3) pixels.
        view: its name.
    """
    if not view.startswith(_CROP):
        return media
    draws = random.Random(f"{view} {media.digest}")
    rows, cols = (_interval(side, draws) for side in media.pixels.shape[:2])
    return replace(media, pixels=np.ascontiguousarray(media.pixels[rows, cols]))


def _interval(side: int, draws: random.Random) -> slice:
    kept = max(1, round(side * draws.uniform(_LEAST_SIDE, 1.0)))
    first = round((side - kept) * draws.random())
    return slice(first, first + kept)
