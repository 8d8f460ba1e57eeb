"""Synthetic clips, whose events and their order determine the caption, at known times.

A clip of 10 frames shows two coloured shapes, one after the other: each appears, moves left,
right, up or down, or turns another colour. Its caption is

    a <colour> <shape> <event> then a <colour> <shape> <event>

**No event leaves a trace in other frames**, and the set of frames does not reveal their order:

- Each coloured shape is visible only during its own interval.
- A move played backwards is the opposite move, and a change of colour the opposite change.
  Tracks, moments of change, intervals and the frames between them are drawn so that a clip and its
  *twin* (two events exchanged, or one event played backwards) are equally likely. A twin has the
  same frames in another order, and another caption.

So a model that ignores the order of frames is at chance on which event came first, in which
direction a shape moves, and which of two colours turns into the other.

Frames without an event show a grey shape, which the caption never mentions. The vector of a frame
is a mean over its places; to encode the place of a shape in it, everything is darker further right
and larger further down.

There are 27,720 captions, 3,404 of them for validation and 3,426 for testing. The split is chosen
by a digest of the events without their order and direction: twins are in the same split, and no
caption is in two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from regard.data.dataset import write_synthetic
from regard.errors import ConfigError
from regard.synthetic.scenes import (
    COLOURS,
    GREY,
    OVERSAMPLING,
    SHAPES,
    generators,
    outline,
    split_of_number,
    spoken,
)

FRAMES = 10
RATE = 8
"""Frames per second."""
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}

_AXES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
_SIDE = 0.32  # of a shape in the middle row, in sides of the frame
_NEARER = 0.7  # how much larger a shape is at the bottom than at the top
_DARKER = 0.6  # how much darker the frame is at its right than at its left
_TRAVEL = (0.46, 0.54)  # how far a shape moves, in sides of the frame
_CENTRAL = (0.4, 0.6)  # place of a shape that does not move, and middle of a track
_LENGTHS = (3, 4)  # frames of an event
_MARGIN = _SIDE / 2 * (1 + _NEARER / 2)


Place = tuple[float, float]
"""(row, column) in sides of the frame."""


@dataclass(frozen=True)
class Event:
    """An event: one shape appears, moves or changes colour.

    Attributes:
        verb: "appears", "moves" or "turns".
        colour: one of `COLOURS`, at the event's beginning.
        shape: one of `SHAPES`.
        to: direction of a move, colour after a turn; else "".
    """

    verb: str
    colour: str
    shape: str
    to: str = ""

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} {self.verb} {self.to}".rstrip()

    @property
    def backwards(self) -> Event:
        """The event that the frames show in reverse order."""
        if self.verb == "turns":
            return replace(self, colour=self.to, to=self.colour)
        return replace(self, to=OPPOSITE[self.to]) if self.verb == "moves" else self


@dataclass(frozen=True)
class ShownEvent:
    """An event and its appearance in the frames.

    Attributes:
        event: what happens.
        path: centre of the shape in each frame.
        colours: colours of the shape in each frame.
    """

    event: Event
    path: tuple[Place, ...]
    colours: tuple[str, ...]

    @property
    def backwards(self) -> ShownEvent:
        """The same frames in reverse order."""
        return ShownEvent(self.event.backwards, self.path[::-1], self.colours[::-1])


@dataclass(frozen=True)
class Story:
    """A clip before it is drawn.

    Attributes:
        scenes: the two events in order.
        gaps: number of frames without an event before each.
        greys: shape and place in the frames without an event, in order.
        ground: red, green and blue of the background at the left.
    """

    scenes: tuple[ShownEvent, ShownEvent]
    gaps: tuple[int, int]
    greys: tuple[tuple[str, Place], ...]
    ground: tuple[int, int, int]

    @property
    def caption(self) -> str:
        """The one right caption."""
        return caption_of([scene.event for scene in self.scenes])

    @property
    def intervals(self) -> tuple[tuple[int, int], ...]:
        """(first frame, frame after the last) of each scene."""
        found, at = [], 0
        for gap, scene in zip(self.gaps, self.scenes, strict=True):
            found.append((at + gap, at + gap + len(scene.path)))
            at = found[-1][1]
        return tuple(found)

    def draw(self, size: int) -> np.ndarray:
        """Return the frames, (10, size, size, 3) uint8."""
        shown: list[tuple[str, tuple[int, ...], Place]] = []
        shown += [(shape, GREY, place) for shape, place in self.greys]
        for (start, _), scene in zip(self.intervals, self.scenes, strict=True):
            shown[start:start] = [
                (scene.event.shape, COLOURS[colour], place)
                for place, colour in zip(scene.path, scene.colours, strict=True)
            ]
        return np.stack([_paint(self.ground, *what, size) for what in shown])

    def exchanged(self) -> Story:
        """Return the twin whose events come in the other order."""
        return replace(self, scenes=self.scenes[::-1])

    def turned(self, index: int) -> Story:
        """Return the twin one of whose events is played backwards."""
        first, second = self.scenes
        turned = (first.backwards, second) if index == 0 else (first, second.backwards)
        return replace(self, scenes=turned)


def caption_of(events: Sequence[Event]) -> str:
    """Return the caption of events in their order.

    >>> caption_of([Event("turns", "red", "cross", "blue"), Event("moves", "cyan", "square", "up")])
    'a red cross turns blue then a cyan square moves up'
    """
    return " then ".join(map(str, events))


def split_of(events: Sequence[Event]) -> str:
    """Return the split of events, which does not depend on their order and directions."""
    names = sorted(min(str(event), str(event.backwards)) for event in events)
    digest = hashlib.sha256("; ".join(names).encode()).digest()
    return split_of_number(digest[0])


def make_stories(count: int, *, split: str = "train", seed: int = 0) -> list[Story]:
    """Make stories. Story i does not depend on `count`.

    Args:
        count: number of stories.
        split: "train", "val" or "test".
        seed: seed of all random choices.

    Raises:
        ConfigError: the count is negative.
        UnknownName: the split does not exist.
    """
    return [_story(draw, split) for draw in generators(count, split, seed, "clips")]


def spoken_events(story: Story) -> list[tuple[str, int | None]]:
    """Return each word of the caption with the index of the event it describes, or None.

    >>> story = make_stories(1)[0]
    >>> [word for word, event in spoken_events(story) if event is None][-1]
    'a'
    """
    return spoken(story.caption, lambda word: word not in ("a", "then"))


def write_clips(
    folder: str | Path,
    *,
    train: int = 6000,
    val: int = 500,
    test: int = 500,
    seed: int = 0,
    size: int = 32,
) -> Path:
    """Write clips as a data set: lossless videos, `dataset.json` and `events.json`.

    `dataset.json` is in Karpathy's form. `events.json` maps each file to its caption's words (for
    every word the index of the event it describes, or null) and its events with their interval in
    seconds.

    Args:
        folder: created if it does not exist; clips that were written into it are replaced.
        train: number of training clips.
        val: number of validation clips.
        test: number of test clips.
        seed: seed of all random choices.
        size: side of the frames in pixels.

    Returns:
        The path of `dataset.json`.

    Raises:
        ConfigError: the frames are too small to tell shapes apart, or the folder holds something
            else.
        DatasetError: the folder cannot be written.
        MissingExtra: PyAV is not installed.
    """
    if size < 32 or size % 2:
        raise ConfigError(
            f"clips of {size} pixels a side cannot be made; expected an even number of 32 or more, "
            "so that shapes can be told apart."
        )

    def save(story: Story, path: Path) -> None:
        _save(story.draw(size), path)

    make = partial(make_stories, seed=seed)
    return write_synthetic(
        folder, "clips", (train, val, test), make, save, _facts, ".mov", "events.json"
    )


def _facts(story: Story) -> dict[str, Any]:
    return {
        "words": spoken_events(story),
        "events": [
            asdict(scene.event) | {"interval": [start / RATE, stop / RATE]}
            for scene, (start, stop) in zip(story.scenes, story.intervals, strict=True)
        ],
    }


def _story(draw: np.random.Generator, split: str) -> Story:
    while split_of(events := _events(draw)) != split:
        pass
    lengths = [int(n) for n in draw.choice(_LENGTHS, 2)]
    between = int(draw.integers(0, 2))
    before = int(draw.integers(0, FRAMES - sum(lengths) - between + 1))
    first, second = (_show(draw, event, n) for event, n in zip(events, lengths, strict=True))
    greys = tuple(_grey(draw) for _ in range(FRAMES - sum(lengths)))
    red, green, blue = map(int, draw.integers(225, 251, 3))
    return Story((first, second), (before, between), greys, (red, green, blue))


def _events(draw: np.random.Generator) -> list[Event]:
    """Draw two events that share neither shape nor colour, so that they cannot be confused."""
    shapes, colours = draw.permutation(SHAPES), [str(c) for c in draw.permutation(list(COLOURS))]
    events: list[Event] = []
    for shape in map(str, shapes[:2]):
        verb = ("appears", "moves", "turns")[draw.integers(3)]
        colour, to = colours.pop(), ""
        if verb == "moves":
            to = tuple(OPPOSITE)[draw.integers(4)]
        elif verb == "turns":
            to = colours.pop()
        events.append(Event(verb, colour, shape, to))
    return events


def _show(draw: np.random.Generator, event: Event, frames: int) -> ShownEvent:
    colours = [event.colour] * frames
    ends = np.repeat(draw.uniform(*_CENTRAL, (1, 2)), 2, 0)
    if event.verb == "turns":
        change = int(draw.choice((frames // 2, (frames + 1) // 2)))
        colours[change:] = [event.to] * (frames - change)
    elif event.verb == "moves":
        along = np.abs(_AXES[event.to]).argmax()
        half = draw.uniform(*_TRAVEL) / 2 * _AXES[event.to][along]
        # Symmetric about its middle, so that a track and its reverse are equally likely.
        middle = ends[0, along].clip(_MARGIN + abs(half), 1 - _MARGIN - abs(half))
        ends[:, along] = middle - half, middle + half
    # These weights are symmetric, so a track and its reverse have exactly the same pixels.
    path = [(ends[0] * (frames - 1 - k) + ends[1] * k) / (frames - 1) for k in range(frames)]
    return ShownEvent(event, tuple((float(r), float(c)) for r, c in path), tuple(colours))


def _grey(draw: np.random.Generator) -> tuple[str, Place]:
    row, column = map(float, draw.uniform(_MARGIN, 1 - _MARGIN, 2))
    return str(draw.choice(SHAPES)), (row, column)


def _paint(
    ground: tuple[int, ...], shape: str, colour: tuple[int, ...], place: Place, size: int
) -> np.ndarray:
    stencil = Image.new("L", (size * OVERSAMPLING, size * OVERSAMPLING))
    half = _SIDE / 2 * (1 + _NEARER * (place[0] - 0.5))
    points = [
        ((place[1] + c * half) * stencil.width, (place[0] + r * half) * stencil.height)
        for r, c in outline(shape)
    ]
    ImageDraw.Draw(stencil).polygon(points, fill=255)
    cover = np.asarray(stencil.reduce(OVERSAMPLING), np.float64)[..., None] / 255
    light = 1 - _DARKER * np.linspace(0, 1, size)[:, None]
    mixed = np.array(ground) * (1 - cover) + np.array(colour) * cover
    return (mixed * light).round().astype(np.uint8)


def _save(frames: np.ndarray, path: Path) -> None:
    """Write frames without loss (QuickTime Animation), the same bytes every time."""
    from regard.media.video.pyav import import_av

    av = import_av()
    with av.open(str(path), "w", format="mov", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("qtrle", rate=RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
