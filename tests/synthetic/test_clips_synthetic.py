"""Clips: events at their times and nowhere else, twins of the same frames, splits apart."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from regard.cli.data_command import app
from regard.config import VideoConfig
from regard.data import load_dataset
from regard.data.check import check_dataset
from regard.errors import ConfigError, DatasetError, UnknownName
from regard.media import ClipSpec, PreprocessingSpec
from regard.media.video.video_reader import read_clip
from regard.synthetic.clips import (
    FRAMES,
    RATE,
    Event,
    Story,
    caption_of,
    make_stories,
    split_of,
    spoken_events,
    write_clips,
)
from regard.synthetic.scenes import COLOURS, SHAPES, SPLITS

SIZE = 32
SPEC = ClipSpec(
    PreprocessingSpec(SIZE, "squash", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    FRAMES,
    "all",
    "middle",
    0,
    VideoConfig().every,
)


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return make_stories(120) + make_stories(40, split="test")


def twins(story: Story) -> list[Story]:
    """All clips of the same frames: either order of the events, each forwards or backwards."""
    found = [story, story.exchanged()]
    for index in range(2):
        found += [twin.turned(index) for twin in found]
    return found


def bag(frames: np.ndarray) -> Counter[bytes]:
    return Counter(frame.tobytes() for frame in frames)


def test_a_twin_has_the_same_frames_in_another_order_and_another_caption(
    stories: list[Story],
) -> None:
    for story in stories[:12]:
        frames = bag(story.draw(SIZE))
        for twin in twins(story):
            assert bag(twin.draw(SIZE)) == frames
            assert split_of([s.event for s in twin.scenes]) == split_of(
                [s.event for s in story.scenes]
            )
        for twin in (story.exchanged(), *turned(story)):
            assert twin.caption != story.caption
            assert twin.draw(SIZE).tobytes() != story.draw(SIZE).tobytes()


def turned(story: Story) -> list[Story]:
    return [story.turned(i) for i, s in enumerate(story.scenes) if s.event.verb != "appears"]


def test_a_twin_is_as_likely_as_its_clip() -> None:
    """Draws fall on a clip as often as on its twin, within three standard deviations."""
    drawn = make_stories(3000)
    scenes = [s for story in drawn for s in story.scenes]
    moves = [s for s in scenes if s.event.verb == "moves"]
    turns = [s for s in scenes if s.event.verb == "turns"]

    def level(values: Sequence[float], middle: float) -> None:
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values) - middle) < 3 * error

    for low, high in (("left", "right"), ("up", "down")):
        ways = [s.event.to == low for s in moves if s.event.to in (low, high)]
        level([float(way) for way in ways], 0.5)
        # The middle of a track does not tell which way it was gone.
        axis = int(low == "left")
        middle = [np.mean([p[axis] for p in s.path]) for s in moves if s.event.to == low]
        level([float(m) for m in middle], 0.5)
    # Of an odd number of frames the one more is of either colour.
    more = [s.colours.count(s.event.colour) - len(s.colours) / 2 for s in turns]
    level(more, 0.0)
    # First and second events are as long, and of the same kinds.
    level([float(len(a.path) - len(b.path)) for a, b in (s.scenes for s in drawn)], 0.0)
    for index in range(2):
        level([float(s.scenes[index].event.verb == "moves") for s in drawn], 1 / 3)


def coloured(frame: np.ndarray) -> np.ndarray:
    """Return where a frame shows a colour; ground and grey shapes have similar red, green, blue."""
    return np.ptp(frame.astype(int), axis=-1) > 40


def test_an_event_leaves_no_trace_in_other_frames(stories: list[Story]) -> None:
    for story in stories:
        frames = story.draw(SIZE)
        seen = [set(map(bytes, frames[start:stop])) for start, stop in story.intervals]
        others = np.ones(FRAMES, bool)
        for start, stop in story.intervals:
            assert all(coloured(frame).sum() > 20 for frame in frames[start:stop])
            others[start:stop] = False
        assert not any(coloured(frame).any() for frame in frames[others])
        assert others.sum() == len(story.greys)
        assert not seen[0] & seen[1]
        # An event is drawn from its own scene, its ground, and nothing else.
        alone = replace(story, scenes=(story.scenes[0], make_stories(1)[0].scenes[1]))
        start, stop = story.intervals[0]
        np.testing.assert_array_equal(
            frames[start:stop], replace(alone, greys=story.greys[:2] * 9).draw(SIZE)[start:stop]
        )


def test_frames_show_what_the_caption_says(stories: list[Story]) -> None:
    for story in stories[:60]:
        frames = story.draw(SIZE)
        for (start, stop), scene in zip(story.intervals, story.scenes, strict=True):
            event = scene.event
            places = []
            for frame, colour in zip(frames[start:stop], scene.colours, strict=True):
                mine = coloured(frame)
                assert 20 < mine.sum() < 190
                places.append(np.argwhere(mine).mean(0))
                # As dark as its place is, it has the colour's own ratio of red, green and blue.
                shown = frame[mine].mean(0)
                wanted = np.array(COLOURS[colour]) / np.linalg.norm(COLOURS[colour])
                assert shown / np.linalg.norm(shown) @ wanted > 0.97
            step = places[-1] - places[0]
            if event.verb == "moves":
                along = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[event.to]
                assert 0.3 * SIZE < step @ along < 0.56 * SIZE
                assert abs(step @ along[::-1]) < 1
            else:
                assert np.abs(step).max() < 1.5
            wanted = [event.colour, event.to] if event.verb == "turns" else [event.colour]
            assert [c for c, _ in itertools.groupby(scene.colours)] == wanted


def test_places_show_in_light_and_size() -> None:
    """A shape's brightness tells its column, its size the row."""
    for story in make_stories(60):
        frames = story.draw(SIZE)
        for (start, stop), scene in zip(story.intervals, story.scenes, strict=True):
            first, last = frames[start], frames[stop - 1]
            if scene.event.to in ("left", "right"):
                darker, lighter = (first, last) if scene.event.to == "left" else (last, first)
                assert darker[coloured(darker)].mean() < lighter[coloured(lighter)].mean()
            elif scene.event.to in ("up", "down"):
                smaller, larger = (first, last) if scene.event.to == "down" else (last, first)
                assert coloured(smaller).sum() < coloured(larger).sum()


def test_events_share_neither_shape_nor_colour_and_lie_in_the_clip(stories: list[Story]) -> None:
    for story in stories:
        events = [scene.event for scene in story.scenes]
        assert len({e.shape for e in events}) == len(events) == 2
        colours = [c for e in events for c in (e.colour, *([e.to] if e.verb == "turns" else []))]
        assert len(set(colours)) == len(colours)
        times = [t for interval in story.intervals for t in interval]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= FRAMES
        assert all(start <= 1 for start in story.gaps[1:])


def test_captions_by_hand() -> None:
    first = Event("turns", "red", "cross", "blue")
    second, third = Event("moves", "cyan", "square", "up"), Event("appears", "yellow", "circle")
    assert caption_of([first, second]) == "a red cross turns blue then a cyan square moves up"
    assert caption_of([third, second.backwards]) == (
        "a yellow circle appears then a cyan square moves down"
    )
    assert str(first.backwards) == "a blue cross turns red"
    assert third.backwards == third


def test_every_word_knows_its_event(stories: list[Story]) -> None:
    for story in stories:
        for index, scene in enumerate(story.scenes):
            words = [word for word, event in spoken_events(story) if event == index]
            assert " ".join(["a", *words]) == str(scene.event)
        assert " ".join(word for word, _ in spoken_events(story)) == story.caption


def test_splits_share_no_combination_and_cover_every_word() -> None:
    captions = {split: {s.caption for s in make_stories(700, split=split)} for split in SPLITS}
    assert len(set.union(*captions.values())) == sum(map(len, captions.values()))
    assert all(len(said) > 500 for said in captions.values())
    words = {split: {w for c in said for w in c.split()} for split, said in captions.items()}
    assert words["train"] == words["val"] == words["test"]
    assert words["train"] >= {*COLOURS, *SHAPES, "left", "right", "up", "down", "appears"}


def test_stories_are_determined_by_seed_and_place() -> None:
    some, more = make_stories(3, seed=4), make_stories(5, seed=4)
    assert some == more[:3]
    assert make_stories(5, seed=5) != more


def test_wrong_wishes(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="split"):
        make_stories(1, split="validation")
    with pytest.raises(ConfigError, match="-1 clips"):
        make_stories(-1)
    for size in (30, 49):
        with pytest.raises(ConfigError, match=f"{size} pixels"):
            write_clips(tmp_path, size=size)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match="cannot be written"):
        write_clips(tmp_path / "file", train=1, val=0, test=1)


def test_the_command_writes_a_clean_data_set(tmp_path: Path) -> None:
    options = ["--medium", "video", "--train", "5", "--val", "4", "--test", "3", "--seed", "3"]
    result = CliRunner().invoke(app, ["synthetic", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    path = tmp_path / "out" / "dataset.json"
    assert result.stdout.strip() == str(path)
    assert check_dataset(path).problems == ()
    dataset = load_dataset(path)
    assert [len(dataset.split(name).items) for name in SPLITS] == [5, 4, 3]
    events = json.loads((tmp_path / "out" / "events.json").read_text())
    stories = make_stories(5, seed=3) + make_stories(4, split="val", seed=3)
    items = [*dataset.split("train").items, *dataset.split("val").items]
    for item, story in zip(items, stories, strict=True):
        clip = read_clip(item.file, SPEC)
        np.testing.assert_array_equal(clip.pixels, story.draw(SIZE))
        assert clip.times == pytest.approx([k / RATE for k in range(FRAMES)])
        assert clip.duration == FRAMES / RATE
        assert item.captions == (story.caption,)
        record = events[item.key]
        assert [word for word, _ in record["words"]] == story.caption.split()
        for event, scene, (start, stop) in zip(
            record["events"], story.scenes, story.intervals, strict=True
        ):
            assert (event["shape"], event["verb"]) == (scene.event.shape, scene.event.verb)
            assert event["interval"] == [clip.spans[start][0], clip.spans[stop - 1][1]]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_clips(tmp_path / name, train=2, val=1, test=1)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
