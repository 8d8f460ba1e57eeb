"""What a captioner says of synthetic clips, fact by fact, and where it looked for each word.

Two kinds of measure:

- Of the captions that it writes: the whole caption, and each event's colour, shape, verb and end
  (direction or second colour) at the event's place in the caption.
- A choice of two, whose chance is one half: is the clip's caption likelier than that of its twin,
  which has the same frames in another order? The events exchanged: `order`; a move or a change of
  colour backwards: `direction`, `turn`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regard.captioner import Captioner
from regard.decoding.sampling import force_captions
from regard.synthetic.clips import FRAMES, Story, spoken_events
from regard.text.vocabulary import START
from regard.types import Annotations, Caption

KINDS = ("colour", "shape", "verb", "end")
"""What the words of an event say, in their order after "a"."""
ORDER_FACTS = ("order", "direction", "turn")


@dataclass(frozen=True)
class ClipFacts:
    """Shares, 0 to 1.

    Attributes:
        exact: whole captions.
        said: each fact of the written captions.
        chosen: each order fact, true caption against the twin's.
        peaks: words of an event whose largest weight lies on a frame inside the event's interval:
            all, and by what the word says; of captions that are right.
        uniform: the same of a frame drawn evenly.
    """

    exact: float
    said: dict[str, float]
    chosen: dict[str, float]
    peaks: dict[str, float]
    uniform: float

    def row(self) -> str:
        """Return the shares in one line."""
        shares = {"exact": self.exact} | self.said | self.chosen
        shares |= {f"peak inside ({name})": share for name, share in self.peaks.items()}
        shares["uniform"] = self.uniform
        return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())


def measure(model: Captioner, stories: Sequence[Story], size: int) -> ClipFacts:
    """Caption clips, and let the model choose between each and its twins."""
    clips = [model.encoder.read(story.draw(size)) for story in stories]
    captions = model.caption(clips, beam=1)
    assert isinstance(captions, list)
    exact = [c.text == s.caption for c, s in zip(captions, stories, strict=True)]
    inside, share = _peaks(captions, stories)
    parts = [model.annotate(clips[i : i + 50]) for i in range(0, len(clips), 50)]
    annotations = Annotations(
        np.concatenate([p.vectors.numpy() for p in parts]),
        np.concatenate([p.mask.numpy() for p in parts]),
        (),
    )
    return ClipFacts(
        float(np.mean(exact)),
        _said([c.text for c in captions], stories),
        _chosen(model, annotations, stories),
        inside,
        share,
    )


def _said(captions: Sequence[str], stories: Sequence[Story]) -> dict[str, float]:
    right: dict[str, list[bool]] = defaultdict(list)
    for caption, story in zip(captions, stories, strict=True):
        parts = [part.split() for part in caption.split(" then ")]
        for part, scene in zip([*parts, [], []], story.scenes, strict=False):
            wanted = str(scene.event).split()
            for at, name in enumerate(KINDS, 1):
                if at < len(wanted):
                    right[name].append(part[at : at + 1] == [wanted[at]])
    return {name: float(np.mean(values)) for name, values in right.items()}


def _chosen(
    model: Captioner, annotations: Annotations, stories: Sequence[Story]
) -> dict[str, float]:
    pairs: dict[str, list[tuple[int, Story]]] = defaultdict(list)
    for at, story in enumerate(stories):
        pairs["order"].append((at, story.exchanged()))
        for index, scene in enumerate(story.scenes):
            if scene.event.verb != "appears":
                name = "direction" if scene.event.verb == "moves" else "turn"
                pairs[name].append((at, story.turned(index)))
    true = _logprobs(model, annotations, list(range(len(stories))), stories)
    return {
        name: float(
            np.mean(
                true[[at for at, _ in pairs[name]]]
                > _logprobs(model, annotations, *zip(*pairs[name], strict=True))
            )
        )
        for name in ORDER_FACTS
    }


def _logprobs(
    model: Captioner, annotations: Annotations, at: Sequence[int], stories: Sequence[Story]
) -> np.ndarray:
    """Return the log-probability of each story's caption for the clip that `at` names."""
    ids = [model.vocabulary.encode(story.caption) for story in stories]
    tokens = np.zeros((len(ids), max(map(len, ids))), np.int64)
    real = np.zeros(tokens.shape, bool)
    for row, caption in enumerate(ids):
        tokens[row, : len(caption)], real[row, : len(caption)] = caption, True
    backend, rows = model.backend, list(at)
    mine = Annotations(
        backend.asarray(annotations.vectors[rows]), backend.asarray(annotations.mask[rows]), ()
    )
    return (force_captions(backend, mine, tokens, start=START).logprobs * real).sum(1)


def _peaks(captions: Sequence[Caption], stories: Sequence[Story]) -> tuple[dict[str, float], float]:
    """Return (peaks inside the event's interval, of a uniform draw), of captions that are right."""
    inside: dict[str, list[bool]] = {name: [] for name in ("all", *KINDS)}
    share: list[float] = []
    for caption, story in zip(captions, stories, strict=True):
        if caption.text != story.caption:  # its words tell of no interval
            continue
        at = 0
        for word, (text, event) in zip(caption.words, spoken_events(story), strict=True):
            at = 0 if text == "a" else at + 1
            if event is None:
                continue
            start, stop = story.intervals[event]
            hit = start <= int(word.alpha.argmax()) < stop
            inside["all"].append(hit)
            inside[KINDS[at - 1]].append(hit)
            share.append((stop - start) / FRAMES)
    found = {name: float(np.mean(hits)) for name, hits in inside.items() if hits}
    return found, float(np.mean(share)) if share else np.nan
