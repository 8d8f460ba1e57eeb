"""A clip of six seconds from three photographs: a slow pan over each, and a cut to the next.

    python examples/make_clip.py clip.mp4
    regard explain clip.mp4 --out explained

The photographs are those that come with the package and are free of any condition
(src/regard/samples/SOURCES.md): a dog, a cat, a man on the Moon. What is seen when is known to the
frame, so the film strip can be read against it. docs/looking-at-clips.md shows it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

import regard

SCENES = ("dog", "cat", "moonwalk")
SECONDS, RATE = 2, 15
HEIGHT, WIDTH = 240, 320


def pan(photograph: Image.Image, frames: int) -> list[np.ndarray]:
    """Return frames (240, 320, 3) that move over a photograph from left to right or downwards."""
    scale = 1.15 * max(WIDTH / photograph.width, HEIGHT / photograph.height)
    size = round(photograph.width * scale), round(photograph.height * scale)
    large = np.asarray(photograph.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    tops = np.linspace(0, large.shape[0] - HEIGHT, frames).round().astype(int)
    lefts = np.linspace(0, large.shape[1] - WIDTH, frames).round().astype(int)
    return [large[y : y + HEIGHT, x : x + WIDTH] for y, x in zip(tops, lefts, strict=True)]


def make_clip(path: Path) -> None:
    """Write the clip as MP4."""
    samples = Path(regard.__file__).parent / "samples"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for scene in SCENES:
            with Image.open(samples / f"{scene}.jpg") as photograph:
                frames = pan(photograph, SECONDS * RATE)
            for frame in frames:
                pixels = np.ascontiguousarray(frame)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))


if __name__ == "__main__":
    make_clip(Path(sys.argv[1] if len(sys.argv) > 1 else "clip.mp4"))
