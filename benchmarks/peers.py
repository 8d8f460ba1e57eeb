"""Pictures per second and memory of alternatives to regard.

BLIP-base and ViT-GPT2 of transformers, with random weights (they cost the same time, and nothing is
downloaded), each in its own process that alternates with the others. Transformers is not a
dependency of regard; install it in a separate environment:

    python -m venv peers
    peers/bin/pip install torch transformers pillow
    python -m benchmarks.peers --peers-python peers/bin/python --images FOLDER_OF_JPEGS

Every model writes captions of exactly `--words` tokens; regard's shipped model stops by itself.
All read, decode and resize the same files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from regard.util.child_python import python_command, python_environment

HERE = Path(__file__).parent

PEER = r"""
import json, sys, time
import torch
from PIL import Image

def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) / 1e3

name, folder, words, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
from pathlib import Path
files = sorted(Path(folder).glob("*.jpg"))
before = peak()
torch.manual_seed(0)
if name == "blip":
    from transformers import BlipConfig, BlipForConditionalGeneration
    model, size = BlipForConditionalGeneration(BlipConfig()).eval(), 384
    ids = {}
else:
    from transformers import GPT2Config, ViTConfig
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), GPT2Config())
    model, size = VisionEncoderDecoderModel(config).eval(), 224
    ids = dict(decoder_start_token_id=50256, pad_token_id=50256, eos_token_id=50256)
weights = sum(p.numel() for p in model.parameters())

def pixels(file):
    picture = Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(size, size, 3)

def caption(some, beams):
    x = torch.stack([pixels(f) for f in some]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        return model.generate(pixel_values=x, num_beams=beams, do_sample=False,
                              min_new_tokens=words, max_new_tokens=words, **ids)

found = {"weights": weights}
for beams in (1, 3):
    caption(files[:batch], beams)
    began, done = time.perf_counter(), 0
    while done < len(files) and time.perf_counter() - began < float(sys.argv[5]):
        caption(files[done:done + batch], beams)
        done = min(len(files), done + batch)
    found[f"beam {beams}"] = done / (time.perf_counter() - began)
print(json.dumps(found | {"peak_rss_mb": peak() - before}))
"""

OURS = r"""
import json, sys, time
import torch
from pathlib import Path
from benchmarks.memory import peak
before = peak()
import regard
files = [str(f) for f in sorted(Path(sys.argv[1]).glob("*.jpg"))]
model = regard.load("flickr8k-soft").accelerated(10**6)
found = {}
for beams in (1, 3):
    sum(1 for _ in model.caption_many(files[:64], batch_size=32, keep_pixels=False, beam=beams))
    began = time.perf_counter()
    done = sum(1 for _ in model.caption_many(files, batch_size=32, keep_pixels=False, beam=beams))
    found[f"beam {beams}"] = done / (time.perf_counter() - began)
print(json.dumps(found | {"peak_rss_mb": (peak() - before) / 1e6}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers-python", required=True, help="has torch and transformers")
    parser.add_argument("--images", type=Path, help="folder of .jpg files; else made from samples")
    parser.add_argument("--words", type=int, default=11, help="tokens that the peers write")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each model and beam")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.images
        if folder is None:
            from benchmarks.caption import make_pictures

            folder = Path(made)
            make_pictures(folder, 256)
        rest = [str(folder), str(given.words), str(given.batch), str(given.seconds)]
        commands = {
            "regard": python_command("-c", OURS, str(folder)),
            "BLIP-base": [given.peers_python, "-c", PEER, "blip", *rest],
            "ViT-GPT2": [given.peers_python, "-c", PEER, "vit-gpt2", *rest],
        }
        environment = python_environment(None, HERE.resolve().parent)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(given.rounds):
            for name, command in commands.items():
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=False
                )
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr}")
                found[name].append(json.loads(done.stdout))
    medians = {
        name: {key: statistics.median(record[key] for record in records) for key in records[0]}
        for name, records in found.items()
    }
    print(json.dumps(medians, indent=1))
    (HERE / "peers.json").write_text(json.dumps(medians, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
