"""Small whole checkpoints, recipes, caption files and stores; and ways to damage JSON and TOML."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.children import SECRET

STORE_KEY = ("0123abcd", (2, 2), 3)
"""Encoder, grid and features of the store."""
_DEPTH = 20_000
_SECRET_PATHS = (
    f"../../../{SECRET}.txt", f"{{root}}/{SECRET}.txt", f"images/../../../{SECRET}.txt",
    f"file://{{root}}/{SECRET}.txt", "../" * 20 + "etc/hostname", "/dev/zero", "/proc/self/mem",
)  # fmt: skip


def write_document_samples(folder: Path) -> None:
    """Write the documents to damage, and a secret that must not be read."""
    (folder / f"{SECRET}.txt").write_text("not to be read\n", "utf-8")
    place = folder / "papers"
    place.mkdir()
    _write_models(place)
    (place / "recipe.toml").write_text(_RECIPE, "utf-8")
    (place / "pictures").mkdir()
    from PIL import Image

    for name in ("0.jpg", "1.jpg"):
        Image.linear_gradient("L").resize((20, 20)).save(place / "pictures" / name)
    for name, text in _captions().items():
        path = place / "captions" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    _write_store(place / "store")


def _write_models(place: Path) -> None:
    """Write a light model, and one for torch with a training state."""
    import torch

    from regard.captioner import Captioner
    from regard.config import DecoderConfig, EncoderConfig, Recipe
    from regard.model.decoder import AttentionDecoder
    from regard.model.encoders import build_encoder
    from regard.pretrained import find_model
    from regard.text.vocabulary import SPECIALS, Vocabulary

    shutil.copytree(find_model(None, "volume"), place / "light")
    encoder_config = EncoderConfig(name="small_cnn", level="stride8", image_size=32)
    words = Vocabulary((*SPECIALS, "a", "dog", "runs", "on", "grass"))
    encoder = build_encoder(encoder_config)
    sizes = DecoderConfig(embedding_dim=8, hidden_dim=8, attention_dim=8, grid_shape=(4, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = AttentionDecoder(
            sizes, annotation_dim=encoder.annotation_dim, vocabulary_size=len(words)
        )
    recipe = Recipe(name="toy", encoder=encoder_config, decoder=sizes)
    model = Captioner(encoder, decoder, words, recipe, name="toy")
    scores = {"scores": {"bleu4": 20.5}, "settings": {"beam": 3}}
    model.save(place / "torch", metrics=scores, training_state={"step": 3, "tensor": torch.ones(2)})


_RECIPE = """\
name = "mine"

[encoder]
name = "small_cnn"
level = "stride8"
image_size = 64
trainable = true

[decoder]
hidden_dim = 32
dropout = 0.25
attention = "soft"
grid_shape = [8, 8]

[data]
annotations = "captions.csv"
images = "pictures"

[training]
epochs = 2
batch_size = 4
"""


def _captions() -> dict[str, str]:
    rows = [("0.jpg", "a dog runs", "train"), ("1.jpg", "a cat, red", "val")]
    sentence = [{"raw": text, "tokens": text.split(), "sentid": i, "imgid": i}
                for i, (_, text, _) in enumerate(rows)]  # fmt: skip
    karpathy = [
        {"filename": file, "split": split, "imgid": i, "sentences": [sentence[i]]}
        for i, (file, _, split) in enumerate(rows)
    ]
    coco = {
        "images": [{"id": i, "file_name": file} for i, (file, _, _) in enumerate(rows)],
        "annotations": [{"id": i, "image_id": i, "caption": t} for i, (_, t, _) in enumerate(rows)],
    }
    vtt = {
        "videos": [{"video_id": f"video{i}", "split": s} for i, (_, _, s) in enumerate(rows)],
        "sentences": [
            {"video_id": f"video{i}", "caption": t, "sen_id": i} for i, (_, t, _) in enumerate(rows)
        ],
    }
    return {
        "captions.csv": "file,caption,split\n" + "".join(f'{f},"{t}",{s}\n' for f, t, s in rows),
        "captions.jsonl": "".join(
            json.dumps({"file": f, "caption": t, "split": s}) + "\n" for f, t, s in rows
        ),
        "quotes.csv": "image|text\n" + "".join(f'{f}|"{t} ""so"" said"\n' for f, t, _ in rows),
        "mapping.json": json.dumps({f: [t, t] for f, t, _ in rows}),
        "list.json": json.dumps([{"image": f, "description": t} for f, t, _ in rows]),
        "karpathy.json": json.dumps({"images": karpathy, "dataset": "mine"}),
        "coco.json": json.dumps(coco),
        "tokens.txt": "".join(f"{f}#0\t{t}\n" for f, t, _ in rows),
        "vtt.json": json.dumps(vtt),
        "clips.json": json.dumps([{"file": f, "split": s, "captions": [t]} for f, t, s in rows]),
        "msvd/sents_train_lc_nopunc.txt": "vid1\ta dog runs\nvid2\ta cat sits\n",
        "msvd/youtube_mapping.txt": "-4wsuPCjDBc_5_15 vid1\nabc_0_3 vid2\n",
        "msvd.csv": "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
        "-4wsuPCjDBc,5,15,1,clean,4,English,a dog runs\n",
    }


def _write_store(folder: Path) -> None:
    from regard.data.store import AnnotationStore, StoreKey

    store = AnnotationStore(folder, StoreKey(*STORE_KEY))

    def encode(pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        mask = np.ones((len(pairs), 4), bool)
        mask[0, 3] = False
        return np.ones((len(pairs), 4, 3), np.float16), mask

    wanted = [(f"digest{i}", "plain", f"{i}.jpg") for i in range(4)]
    for _ in store.fill(wanted, encode):
        pass


def damaged_json(text: str, root: Path, draw: random.Random) -> str:
    """Return JSON with a changed value, key or nesting; or invalid JSON."""
    way = draw.randrange(10)
    if way == 0:
        at = draw.randrange(len(text) + 1)
        opening = draw.choice(('{"a":', "["))
        return text[:at] + opening * _DEPTH + text[at:]
    if way == 1:  # a key twice
        return text.replace("{", '{"name": null, "format_version": 1, ', draw.choice((1, -1)))
    if way == 2:
        whole = json.loads(text)
        return json.dumps(draw.choice(([], [whole], None, 1, "text", True, {"a": whole}, {})))
    value = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 5))):
        _change(value, root, draw)
    made = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    return made.replace('"<huge>"', "9" * draw.choice((30, 5000))).replace('"<inf>"', "1e999")


def _change(value: Any, root: Path, draw: random.Random) -> None:
    """Change something in a value, in place; every depth is as likely as any other."""
    holders: dict[int, list[Any]] = {}

    def gather(at: Any, depth: int) -> None:
        if isinstance(at, dict | list) and at:
            holders.setdefault(depth, []).append(at)
            for inner in at.values() if isinstance(at, dict) else at:
                gather(inner, depth + 1)

    gather(value, 0)
    if not holders:
        return
    holder = draw.choice(holders[draw.choice(list(holders))])
    key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    way = draw.randrange(6)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)
    elif way == 2 and isinstance(holder, list):
        holder.append(draw.choice(holder))
    else:
        holder[key] = _strange(holder[key], root, draw)


def _strange(value: Any, root: Path, draw: random.Random) -> Any:
    near: list[Any] = []
    if isinstance(value, int | float):
        near = [-value, value + 1, value * 1000, str(value), [value], float(value), value + 0.5]
    elif isinstance(value, str):
        near = [value + "x", value.upper(), "", [value], f"../{value}", value * 3]
    elif isinstance(value, list):
        near = [[], value * 2, value[:1], value[0] if value else None, [value], tuple(value)[::-1]]
    elif isinstance(value, dict):
        near = [{}, list(value), list(value.values())]
    path = draw.choice(_SECRET_PATHS).format(root=root)
    far = (None, True, False, 0, -1, 1, 2**31, 2**63, 1e308, float("nan"), "<inf>", "<huge>")
    more = ("", "\0", "\ud800", "é" * 3, "x" * 100_000, path, [], {}, [[[[]]]], [None], {"a": None})
    return draw.choice((*near, *near, *far, *more, path))


def damaged_toml(text: str, root: Path, draw: random.Random) -> str:
    """Return TOML with some changed lines."""
    lines = text.splitlines()
    for _ in range(draw.choice((1, 1, 3))):
        at = draw.randrange(len(lines))
        key, equals, value = lines[at].partition("=")
        path = json.dumps(draw.choice(_SECRET_PATHS).format(root=root))
        nested = draw.choice(("[" * 5000, "{a=" * 5000, "[" * 200_000))
        strange = ("nan", "inf", "-1", "0", "1e400", "9" * 5000, '""', "[]", "{}", "true", path,
                   "1979-05-27T07:32:00Z", nested, '"""', "[[1]]", '"\\ud800"', value)  # fmt: skip
        way = draw.randrange(5)
        if way == 0:
            lines.insert(at, lines[at])
        elif way == 1:
            lines.pop(at)
            lines = lines or [""]
        elif way == 2:
            lines[at] = draw.choice(
                ("[encoder", "[a.b.c]", "[[encoder]]", "x", "= 1", "\0", "a.b=1")
            )
        elif equals:
            lines[at] = f"{key}= {draw.choice(strange)}"
    return "\n".join(lines)


def damaged_header(content: bytes, root: Path, draw: random.Random) -> bytes:
    """Return safetensors with a damaged header, mostly of the declared length."""
    (size,) = struct.unpack_from("<Q", content)
    header = damaged_json(content[8 : 8 + size].decode(), root, draw).encode(
        "utf-8", "surrogatepass"
    )
    length = len(header) if draw.random() < 0.8 else draw.choice((0, 1, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + header + content[8 + size :]
