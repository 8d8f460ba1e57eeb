"""Tiny things that tests share: an encoder, a decoder, a captioner, pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from regard.config import DecoderConfig, EncoderConfig, ObjectiveConfig, Recipe
from regard.decoder import AttentionDecoder
from regard.encoders import build_encoder
from regard.vocabulary import SPECIALS, Vocabulary

WORDS = ("a", "dog", "cat", "runs", "sits", "on", "grass", "red")


def vocabulary() -> Vocabulary:
    return Vocabulary(SPECIALS + WORDS)


def decoder(*, annotation_dim: int = 6, seed: int = 0, **settings: object) -> AttentionDecoder:
    """A small decoder whose weights are large enough that words differ."""
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7}
    config = DecoderConfig(**(sizes | settings))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AttentionDecoder(
            config, annotation_dim=annotation_dim, vocabulary_size=len(SPECIALS) + len(WORDS)
        )
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(1.7)
    return made.eval()


def recipe(**decoder_settings: object) -> Recipe:
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7, "grid_shape": (2, 2)}
    kind = "hard_attention" if decoder_settings.get("attention") == "hard" else "cross_entropy"
    return Recipe(
        name="toy",
        objective=ObjectiveConfig(kind=kind),
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
