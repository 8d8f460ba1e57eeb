"""Tiny things that tests share: an encoder, a decoder, a captioner, pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from regard.config import DecoderConfig, EncoderConfig, Recipe, VolumeConfig
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import build_encoder
from regard.text.vocabulary import SPECIALS, Vocabulary
from regard.types import AttentionTrace, Caption, Grid, Media, Word

WORDS = ("a", "dog", "cat", "runs", "sits", "on", "grass", "red")


def vocabulary() -> Vocabulary:
    return Vocabulary(SPECIALS + WORDS)


def decoder(
    *,
    annotation_dim: int = 6,
    seed: int = 0,
    words: int = len(SPECIALS) + len(WORDS),
    **settings: object,
) -> AttentionDecoder:
    """A small decoder whose weights are large enough that words differ."""
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7}
    config = DecoderConfig(**(sizes | settings))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AttentionDecoder(config, annotation_dim=annotation_dim, vocabulary_size=words)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(1.7)
    return made.eval()


def recipe(**decoder_settings: object) -> Recipe:
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7, "grid_shape": (2, 2)}
    return Recipe(
        name="toy",
        encoder=EncoderConfig(image_size=64),
        decoder=DecoderConfig(**(sizes | decoder_settings)),  # type: ignore[arg-type]
    )


def captioner(**decoder_settings: object):
    from regard.captioner import Captioner

    made = recipe(**decoder_settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = build_encoder(made.encoder, pretrained=False)
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7, "grid_shape": (2, 2)}
    small = decoder(annotation_dim=encoder.annotation_dim, **(sizes | decoder_settings))
    return Captioner(encoder, small, vocabulary(), made, name="toy")


def volume_captioner():
    """Of scans, by the small 3D network on 2×2×2 cells of 8 mm."""
    from regard.captioner import Captioner

    volume = VolumeConfig(shape=(8, 8, 8), spacing=(2.0, 2.0, 2.0), window="lung")
    config = EncoderConfig("small_cnn3d", level="stride4", medium="volume", volume=volume)
    encoder = build_encoder(config)
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7, "grid_shape": (2, 2, 2)}
    small = decoder(annotation_dim=encoder.annotation_dim, **sizes)
    made = Recipe(name="toy", encoder=config, decoder=small.config)
    return Captioner(encoder, small, vocabulary(), made, name="toy")


def picture(seed: int = 0, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A smooth random picture, (height, width, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def jpeg(seed: int = 0, size: tuple[int, int] = (40, 60)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, size)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_data(folder: Path, pictures: int = 8) -> tuple[Path, Path]:
    """Write pictures and a CSV of two captions each; return (captions, images)."""
    images = folder / "images"
    images.mkdir(parents=True)
    lines = ["file,caption,split"]
    for i in range(pictures):
        (images / f"{i}.jpg").write_bytes(jpeg(i))
        split = "val" if i % 4 == 3 else "train"
        lines += [f"{i}.jpg,a {'dog' if i % 2 else 'cat'} runs,{split}"]
        lines += [f"{i}.jpg,a red {'dog' if i % 2 else 'cat'} sits on grass,{split}"]
    captions = folder / "captions.csv"
    captions.write_text("\n".join(lines) + "\n", "utf-8")
    return captions, images


def caption(
    texts: tuple[str, ...] = ("a", "dog", "runs"),
    *,
    alpha: np.ndarray | None = None,
    grid: Grid | None = None,
    chosen: tuple[int, ...] = (),
) -> Caption:
    """A caption made by hand; alpha (T, L) is uneven unless given, `chosen` makes it hard."""
    grid = grid or Grid(("rows", "cols"), (2, 3), (40, 60), ((0.0, 40.0), (0.0, 60.0)))
    if alpha is None:
        alpha = np.random.default_rng(1).dirichlet(np.ones(grid.cells), len(texts))
    alpha = alpha.astype(np.float32).reshape(len(texts), grid.cells)
    words = tuple(
        Word(
            text=text,
            logprob=-0.5,
            alpha=row.reshape(grid.shape),
            beta=0.75,
            location=chosen[i] if chosen else None,
            alternatives=((text, -0.5), ("cat", -1.5)),
        )
        for i, (text, row) in enumerate(zip(texts, alpha, strict=True))
    )
    trace = AttentionTrace(
        alpha=alpha,
        beta=np.full(len(texts), 0.75),
        location=np.array(chosen) if chosen else None,
        attention="hard" if chosen else "soft",
        context="argmax" if chosen else "expected",
        grid=grid,
    )
    return Caption(
        text=" ".join(texts),
        words=words,
        score=-0.5 * len(texts),
        finished=True,
        trace=trace,
        file="folder/photo.jpg",
        medium="image",
        model="toy",
        seconds=0.01,
        media=Media("image", picture(0, (grid.source_size[0], grid.source_size[1])), "toy", ""),
    )
