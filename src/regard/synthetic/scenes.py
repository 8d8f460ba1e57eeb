"""Synthetic scenes, whose picture determines the caption, and shared code for synthetic data.

A scene shows two coloured objects and one or two grey ones on a light background. Its caption is

    a <colour> <shape> is <relation> a <colour> <shape>

with six colours, four shapes and four relations. Exactly one caption is right:

- The caption never mentions the grey objects; they are distractors.
- Colours lie on a wheel (red, yellow, green, cyan, blue, magenta, red ...). The object's colour is
  one or two steps after the subject's; colours three steps apart do not occur together.
- The pair lies along one axis (at most 0.4 times as far apart along the other), so only one
  relation holds.

There are 768 combinations (colour, shape, relation, colour, shape). An eighth of a shuffled list
is for validation and an eighth for testing: no caption occurs in two splits.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from regard.data.dataset import SPLITS, write_synthetic
from regard.errors import ConfigError, UnknownName

COLOURS = {
    "red": (210, 45, 45),
    "yellow": (230, 205, 40),
    "green": (45, 160, 60),
    "cyan": (40, 195, 205),
    "blue": (45, 75, 205),
    "magenta": (200, 50, 190),
}
"""In the order of the wheel."""
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = {"left of": (0, 1), "right of": (0, -1), "above": (1, 0), "below": (-1, 0)}
"""Each with the (row, column) direction from the subject to the object."""
GREY = (125, 125, 125)
OVERSAMPLING = 4  # pictures are drawn this many times larger, then averaged

_SIDES = (0.225, 0.244)  # of an object's box, in sides of the picture: at most 0.0595 of its area
_GAP = 0.03  # free space between two boxes, in sides of the picture
_HELD_OUT = {0: "val", 4: "test"}  # by the number of a combination, modulo 8

T = TypeVar("T")
Point = tuple[float, float]
"""(row, column) in pixels."""
Combination = tuple[str, str, str, str, str]
"""(colour, shape, relation, colour, shape), the words that differ between captions."""


@dataclass(frozen=True)
class SceneObject:
    """One object and its place, in pixels from the upper left corner.

    Attributes:
        colour: one of `COLOURS`, or "grey".
        shape: one of `SHAPES`.
        role: "subject", "object", or "" for a grey one.
        box: (top, left, bottom, right).
        polygon: outline as (row, column) points.
    """

    colour: str
    shape: str
    role: str
    box: tuple[float, float, float, float]
    polygon: tuple[Point, ...]


@dataclass(frozen=True)
class Scene:
    """A picture, its caption, and where the objects are.

    Attributes:
        pixels: (size, size, 3) uint8, RGB.
        caption: the one right caption.
        objects: subject, object, then the grey ones.
    """

    pixels: np.ndarray
    caption: str
    objects: tuple[SceneObject, ...]


def make_scenes(count: int, *, split: str = "train", seed: int = 0, size: int = 64) -> list[Scene]:
    """Make scenes. Scene i does not depend on `count`.

    Args:
        count: number of scenes.
        split: "train", "val" or "test"; their combinations of colour, shape and relation differ.
        seed: seed of all random choices.
        size: side of the pictures in pixels.

    Raises:
        ConfigError: the pictures are too small to tell shapes apart, or the count is negative.
        UnknownName: the split does not exist.
    """
    allowed = combinations(split)
    if size < 32:
        raise ConfigError(
            f"scenes of {size} pixels a side cannot be made; expected 32 or more, so that shapes "
            "can be told apart."
        )
    return [
        _scene(draw, allowed[draw.integers(len(allowed))], size)
        for draw in generators(count, split, seed, "scenes")
    ]


def write_scenes(
    folder: str | Path,
    *,
    train: int = 6000,
    val: int = 500,
    test: int = 500,
    seed: int = 0,
    size: int = 64,
) -> Path:
    """Write scenes as a data set: pictures, `dataset.json` and `objects.json`.

    `dataset.json` is in Karpathy's form. `objects.json` maps each file to its caption's words
    (for every word the index of the object it describes, or null) and its objects.

    Args:
        folder: created if it does not exist; scenes that were written into it are replaced.
        train: number of training scenes.
        val: number of validation scenes.
        test: number of test scenes.
        seed: seed of all random choices.
        size: side of the pictures in pixels.

    Returns:
        The path of `dataset.json`.

    Raises:
        ConfigError: see `make_scenes`; or the folder holds something else.
        DatasetError: the folder cannot be written.
    """

    def save(scene: Scene, path: Path) -> None:
        Image.fromarray(scene.pixels).save(path)

    def facts(scene: Scene) -> dict[str, Any]:
        objects = [asdict(thing) for thing in scene.objects]
        return {"words": spoken_objects(scene), "objects": objects}

    make = partial(make_scenes, seed=seed, size=size)
    return write_synthetic(
        folder, "scenes", (train, val, test), make, save, facts, ".png", "objects.json"
    )


def spoken_objects(scene: Scene) -> list[tuple[str, int | None]]:
    """Return each word of the caption with the index of the object it names, or None.

    >>> scene = make_scenes(1)[0]
    >>> [place for _, place in spoken_objects(scene)][1:3]
    [0, 0]
    """
    return spoken(scene.caption, lambda word: word in (*COLOURS, *SHAPES))


@cache
def combinations(split: str) -> tuple[Combination, ...]:
    """Return the combinations that scenes of a split show. The splits share none.

    Raises:
        UnknownName: the split does not exist.
    """
    wheel = list(COLOURS)
    everything = [
        (colour, shape, relation, wheel[(i + on) % len(wheel)], other)
        for i, colour in enumerate(wheel)
        for on in (1, 2)
        for shape, relation, other in itertools.product(SHAPES, RELATIONS, SHAPES)
    ]
    return part_of(everything, split)


def _scene(draw: np.random.Generator, combination: Combination, size: int) -> Scene:
    colour, shape, relation, other, other_shape = combination
    greys = [("grey", str(draw.choice(SHAPES)), "") for _ in range(draw.integers(1, 3))]
    named = [(colour, shape, "subject"), (other, other_shape, "object"), *greys]
    sides = draw.uniform(*_SIDES, len(named)) * size
    centres = _centres(draw, RELATIONS[relation], sides, size)
    objects = tuple(
        _object(*what, centre, side)
        for what, centre, side in zip(named, centres, sides, strict=True)
    )
    caption = f"a {colour} {shape} is {relation} a {other} {other_shape}"
    return Scene(_draw(draw, objects, size), caption, objects)


def _centres(
    draw: np.random.Generator, direction: tuple[int, int], sides: np.ndarray, size: int
) -> list[Point]:
    """Draw places until nothing overlaps and the relation of the pair holds."""
    margin = sides.max() / 2 + 1
    while True:
        along = draw.uniform(0.3, 0.7) * size
        across = draw.uniform(-0.4, 0.4) * along
        step = np.where(np.asarray(direction) == 0, across, np.asarray(direction) * along)
        first = draw.uniform(margin, size - margin, 2)
        rest = draw.uniform(margin, size - margin, (len(sides) - 2, 2))
        centres = np.stack([first, first + step, *rest])
        if (centres < margin).any() or (centres > size - margin).any():
            continue
        if all(_apart(centres, sides, i, j, size) for i in range(len(sides)) for j in range(i)):
            return [(float(row), float(column)) for row, column in centres]


def _apart(centres: np.ndarray, sides: np.ndarray, i: int, j: int, size: int) -> bool:
    return bool(np.abs(centres[i] - centres[j]).max() > (sides[i] + sides[j]) / 2 + _GAP * size)


def _object(colour: str, shape: str, role: str, centre: Point, side: float) -> SceneObject:
    row, column = centre
    polygon = tuple((row + r * side / 2, column + c * side / 2) for r, c in outline(shape))
    rows, columns = zip(*polygon, strict=True)
    return SceneObject(
        colour, shape, role, (min(rows), min(columns), max(rows), max(columns)), polygon
    )


def outline(shape: str) -> Iterator[Point]:
    """Yield the outline of a shape in a box from -1 to 1."""
    if shape == "circle":
        for k in range(32):
            yield math.sin(k * math.tau / 32), math.cos(k * math.tau / 32)
    elif shape == "square":
        yield from ((-1, -1), (-1, 1), (1, 1), (1, -1))
    elif shape == "triangle":
        yield from ((-1, 0), (1, 1), (1, -1))
    else:
        arm = 1 / 3
        for row, column in ((-1, 1), (1, 1), (1, -1), (-1, -1)):
            corner = ((row, column * arm), (row * arm, column * arm), (row * arm, column))
            yield from corner if row != column else corner[::-1]


def _draw(draw: np.random.Generator, objects: tuple[SceneObject, ...], size: int) -> np.ndarray:
    """Return the picture: flat colours that vary a little, on a light and noisy background."""
    side = size * OVERSAMPLING
    ground = tuple(int(v) for v in draw.integers(225, 251, 3))
    picture = Image.new("RGB", (side, side), ground)
    brush = ImageDraw.Draw(picture)
    for thing in objects:
        pure = np.asarray(COLOURS.get(thing.colour, GREY))
        shade = tuple(int(v) for v in (pure + draw.integers(-12, 13, 3)).clip(0, 255))
        points = [(c * OVERSAMPLING, r * OVERSAMPLING) for r, c in thing.polygon]
        brush.polygon(points, fill=shade)
    small = np.asarray(picture.reduce(OVERSAMPLING), np.float64)
    noisy = small + draw.normal(0, 4, small.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


# Shared by all synthetic data sets


def check_split(split: str) -> None:
    """Raise `UnknownName` if the split does not exist."""
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)


def generators(count: int, split: str, seed: int, kind: str) -> Iterator[np.random.Generator]:
    """Return a random generator for each sample. Generator i does not depend on `count`.

    Raises:
        ConfigError: the count is negative.
        UnknownName: the split does not exist.
    """
    check_split(split)
    if count < 0:
        raise ConfigError(f"{count} {kind} cannot be made; expected 0 or more.")
    return (np.random.default_rng((seed, SPLITS.index(split), i)) for i in range(count))


def split_of_number(number: int) -> str:
    """Return the split of a numbered combination: val and test get an eighth each."""
    return _HELD_OUT.get(number % 8, "train")


def spoken(caption: str, names: Callable[[str], bool]) -> list[tuple[str, int | None]]:
    """Return each word of a caption with the index of the thing it names, or None.

    Args:
        caption: in which the description of every thing begins with "a".
        names: whether a word describes the thing.
    """
    words = caption.split()
    begun = itertools.accumulate(word == "a" for word in words)
    return [(word, n - 1 if names(word) else None) for word, n in zip(words, begun, strict=True)]


def part_of(everything: list[T], split: str) -> tuple[T, ...]:
    """Return the combinations of a split; splits share none. The list is shuffled in place."""
    check_split(split)
    # Always in the same way: a regular pattern would be a rule that a model can learn.
    random.Random(1).shuffle(everything)
    return tuple(c for i, c in enumerate(everything) if split_of_number(i) == split)
