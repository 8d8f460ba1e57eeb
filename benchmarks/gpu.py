"""`python -m benchmarks gpu`: training and beam search on one GPU, with the bandwidth bound.

Annotations are random numbers, resident in bfloat16 (22.7 GB); captions have 7 to 20 words, 10.5
on average, and the five captions of a picture lie in one batch. Products run in bfloat16, weights
and sums in float32. Training is the decoder's own: dropout 0.5, the penalty on attention, clipping,
Adam. The beam search is that of captioning and evaluation. Pictures are encoded from the bytes of
JPEG files. Before anything is timed, the losses and gradients that the kernels give in float32 are
compared with those of torch in float64.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import gpu_work as work
from benchmarks.gpu_work import Resident, Sizes
from regard.backends.onnx_backend import available_cores
from regard.backends.torch_backend import TorchBackend
from regard.config import DecoderConfig, EncoderConfig
from regard.decoding import DecodingOptions
from regard.decoding import decode as decode_annotations
from regard.errors import ConfigError, RegardError
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import build_encoder
from regard.model.encoders.onnx_encoder import channels_last
from regard.native import dispatch
from regard.text.vocabulary import END, PAD, START, UNKNOWN
from regard.training.batches import Chunk, plan_epoch
from regard.training.inputs import stacked
from regard.training.objectives.base import Batch, caption_logprob, doubly_stochastic
from regard.types import Annotations

BEAM = 3
Outputs = tuple[Tensor, ...]
Figures = dict[str, float]


def measure_gpu(
    *,
    tiny: bool,
    batch: int = 1020,
    rate: float = 1.6e-3,
    decode_batch: int = 1024,
    report: Callable[[str, dict[str, Any]], None] = lambda title, figures: None,
) -> dict[str, dict[str, Any]]:
    """Run the whole benchmark and return its figures by title.

    Args:
        tiny: toy sizes on the CPU, which test the benchmark but not the speed.
        batch: captions of the large batch.
        rate: Adam's rate with that batch.
        decode_batch: pictures searched at once.
        report: receives each title with its figures as soon as they are measured.

    Raises:
        ConfigError: no CUDA device is available.
        RegardError: see `compare`.
    """
    if not tiny and not torch.cuda.is_available():
        raise ConfigError(
            "No CUDA device is available; --small tries the benchmark on the CPU, in toy sizes."
        )
    device = torch.device("cpu" if tiny else "cuda")
    sizes = work.TINY if tiny else Sizes()
    large, small, searched = (40, 20, 8) if tiny else (batch, 64, decode_batch)
    figures: dict[str, dict[str, Any]] = {}

    def add(title: str, found: dict[str, Any]) -> None:
        figures[title] = found
        report(title, found)

    add("machine", machine(device))
    add("peaks", peaks(device, tiny))
    peak = figures["peaks"]
    data = work.draw_data(sizes, device)
    add("kernels against float64", compare(sizes, data))
    add("one step of attention", attention(sizes, data, large // sizes.captions, peak))
    for name, captions, pace, epochs in (("large", large, rate, 2), ("small", small, 4e-4, 1)):
        found = train(sizes, data, captions, pace, peak, epochs=epochs)
        add(f"training, {name} batch", found)
    add(f"beam {BEAM}", decode(sizes, data, searched, peak))
    add("pictures", encode(device, tiny))
    return figures


def build(s: Sizes, device: torch.device, dropout: float = 0.5) -> AttentionDecoder:
    """Build the decoder of the literature, the same weights each time."""
    config = DecoderConfig(
        embedding_dim=s.embedding, hidden_dim=s.hidden, attention_dim=s.attention, dropout=dropout
    )
    torch.manual_seed(0)
    return AttentionDecoder(config, annotation_dim=s.features, vocabulary_size=s.words).to(device)


def loss_of(decoder: AttentionDecoder, data: Resident, items: Tensor, tokens: Tensor) -> Outputs:
    """Return the loss, and nats per word, of all captions (B, T + 1) of some pictures (N,)."""
    vectors = data.vectors[items]
    if not torch.is_autocast_enabled(vectors.device.type):
        vectors = vectors.to(decoder.output.weight.dtype)
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
    read, targets = tokens[:, :-1], tokens[:, 1:]
    batch = Batch(vectors, mask, read, targets, targets != PAD, ())
    # Padding is read too: to leave it out the host would have to know where it lies.
    unrolled = decoder(read, decoder.project(vectors, mask))
    logprob = caption_logprob(unrolled, batch)
    penalty = doubly_stochastic(unrolled.alpha, batch.steps, mask)
    return -logprob.mean() + penalty, -logprob.sum() / batch.steps.sum()


def compare(s: Sizes, data: Resident) -> Figures:
    """Return the largest errors of the losses and gradients of float32 against float64.

    Raises:
        RegardError: they exceed float32 rounding, or the kernels do not run here.
    """
    case = dispatch.case_of(data.vectors)
    if data.vectors.is_cuda and dispatch.triton_obstacle(case):
        raise RegardError("Triton's kernels do not run on this device; see the warning above.")
    items = torch.arange(8, device=data.vectors.device)
    tokens = data.tokens[items].flatten(0, 1)
    decoder = build(s, data.vectors.device, dropout=0.0)

    def differentiate() -> list[Tensor]:
        loss, _ = loss_of(decoder, data, items, tokens)
        return [loss.detach(), *torch.autograd.grad(loss, list(decoder.parameters()))]

    found = differentiate()
    with mock.patch.object(dispatch, "triton_obstacle", return_value="switched off"):
        plain = differentiate()
    decoder = decoder.double()
    exact = differentiate()

    def worst_of(tensors: list[Tensor]) -> float:
        pairs = zip(tensors, exact, strict=True)
        return max(float((a.double() - b).norm() / b.norm().clamp(min=1e-12)) for a, b in pairs)

    worst = worst_of(found)
    if not worst < 1e-3:
        raise RegardError(f"the kernels' gradients are off by {worst:.2g}: nothing was timed.")
    return {"worst relative error": worst, "worst relative error, plain": worst_of(plain)}


def attention(s: Sizes, data: Resident, pictures: int, peak: Figures) -> Figures:
    """Time one step of soft attention in bfloat16, forward and both ways, and plainly."""
    device = data.vectors.device
    decoder = build(s, device).bfloat16()
    values = data.vectors[:pictures]
    mask = torch.ones(values.shape[:2], dtype=torch.bool, device=device)
    projected = decoder.project(values, mask)
    hidden = torch.randn(
        pictures * s.captions, s.hidden, device=device, dtype=torch.bfloat16, requires_grad=True
    )

    def forward() -> tuple[Tensor, Tensor]:
        attended = decoder.attention(hidden, projected)
        return attended.context, attended.alpha

    context, alpha = forward()
    given = torch.ones_like(context), torch.ones_like(alpha)

    def both() -> Outputs:
        return torch.autograd.grad(forward(), [hidden, projected.keys], given)  # type: ignore[list-item]

    def run(name: str) -> Figures:
        return {
            f"forward{name}, s": timed(forward, device, 10, calls=20),
            f"forward and backward{name}, s": timed(both, device, 10, calls=20),
        }

    found = run("")
    with mock.patch.object(dispatch, "triton_obstacle", return_value="switched off"):
        found |= run(", plain")
    read = work.step_bytes(s, pictures, backward=False)
    back = work.step_bytes(s, pictures, backward=True)
    floor = read / peak["bytes_per_s"], (read + back) / peak["bytes_per_s"]
    return found | {
        "floor of bytes, forward, s": floor[0],
        "share of the floor, forward": floor[0] / found["forward, s"],
        "share of the floor, both": floor[1] / found["forward and backward, s"],
    }


def train(
    s: Sizes, data: Resident, batch: int, rate: float, peak: Figures, *, epochs: int
) -> dict[str, float | list[float]]:
    """Train from fresh weights; time the last epoch, keep the losses of the first."""
    device = data.vectors.device
    decoder = build(s, device).train()
    weights = sum(w.numel() for w in decoder.parameters())
    step = training_step(decoder, data, rate)
    chunks = data.chunks()
    seconds: list[float] = []
    planned: list[float] = []
    curve: list[Tensor] = []
    for epoch in range(epochs):
        wait(device)
        began = time.perf_counter()
        plan = plan_epoch(chunks, batch, "bucket", 0, epoch)
        planned.append(time.perf_counter() - began)
        losses = train_epoch(data, plan, step, epoch)
        wait(device)
        seconds.append(time.perf_counter() - began)
        curve = curve or losses
    moved: Figures = {}
    for members in plan:
        steps = max(c.length for c in members) + 1
        for name, n in work.train_bytes(s, len(members), steps, weights).items():
            moved[name] = moved.get(name, 0.0) + n
    captions, words = s.pictures * s.captions, int(data.lengths.sum())
    flops = work.train_flops(s, s.pictures, captions, words)
    floor = sum(moved.values()) / peak["bytes_per_s"]
    tenths = torch.stack(curve).float().cpu().tensor_split(min(10, len(curve)))
    return {
        "captions a batch": batch // s.captions * s.captions,
        "rate": rate,
        "first epoch, s": seconds[0],
        "epoch, s": seconds[-1],
        "of which planning batches on the host, s": planned[-1],
        "captions/s": captions / seconds[-1],
        "share of the GEMM peak": flops / seconds[-1] / peak["gemm_flops"],
        "floor of bytes, s": floor,
        "share of the floor": floor / seconds[-1],
        **{f"GB: {name}": n / 1e9 for name, n in moved.items()},
        "GPU memory, GB": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0,
        "nats a word in each tenth of the first epoch": [float(t.mean()) for t in tenths],
    }


TrainingStep = Callable[[Tensor, Tensor, float], Tensor]
"""Maps pictures (N,), captions (B, T + 1) and a share of the learning rate to nats a word."""


def training_step(decoder: AttentionDecoder, data: Resident, rate: float) -> TrainingStep:
    """Return a training step."""
    device = data.vectors.device
    weights = list(decoder.parameters())
    optimizer = torch.optim.Adam(weights, lr=rate, fused=True)

    def step(items: Tensor, tokens: Tensor, share: float) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss, nats = loss_of(decoder, data, items, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        return nats.detach()

    return step


def train_epoch(
    data: Resident, plan: list[list[Chunk]], step: TrainingStep, epoch: int
) -> list[Tensor]:
    """Train on every batch of an epoch; the rate grows linearly over the first twentieth of one."""
    # One copy to the device: one for each batch would make the host wait for the batch before.
    order = torch.tensor([c.item for members in plan for c in members], device=data.vectors.device)
    parts = order.split([len(members) for members in plan])
    losses: list[Tensor] = []
    for number, (items, members) in enumerate(zip(parts, plan, strict=True)):
        longest = max(c.length for c in members)
        tokens = data.tokens[items].flatten(0, 1)[:, : longest + 2]
        share = min(1.0, (epoch * len(plan) + number + 1) / (len(plan) / 20))
        losses.append(step(items, tokens, share))
    return losses


def decode(s: Sizes, data: Resident, pictures: int, peak: Figures) -> Figures:
    """Search with a beam; captions of 10 and 11 words by turns, so that random weights end too."""
    device = data.vectors.device
    backend = TorchBackend(None, build(s, device).eval(), device)
    lengths = int(s.mean - 0.5), int(s.mean + 0.5)

    def search(items: Tensor, words: int) -> None:
        options = DecodingOptions(beam=BEAM, max_length=words, min_length=words, alternatives=0)
        with torch.autocast(device.type, torch.bfloat16):
            vectors = data.vectors[items]
            mask = torch.ones(vectors.shape[:2], dtype=torch.bool, device=device)
            annotations = Annotations(vectors, mask, ())
            decode_annotations(
                backend, annotations, options,
                start=START, end=END, forbidden=(PAD, START, UNKNOWN),
            )  # fmt: skip

    starts = range(0, min(s.pictures, 20 * pictures) - pictures + 1, pictures)
    groups = [torch.arange(first, first + pictures, device=device) for first in starts]

    def all_groups() -> None:
        for turn, items in enumerate(groups):
            search(items, lengths[turn % 2])

    seconds = timed(all_groups, device, 3)
    moved = [sum(work.beam_bytes(s, pictures, BEAM, words + 1).values()) for words in lengths]
    floor = sum(moved[turn % 2] for turn in range(len(groups))) / peak["bytes_per_s"]
    captions = len(groups) * pictures
    return {
        "pictures at once": pictures,
        "captions/s": captions / seconds,
        "floor of bytes, captions/s": captions / floor,
        "share of the floor": floor / seconds,
    }


def encode(device: torch.device, tiny: bool) -> dict[str, float]:
    """Time EfficientNet-Lite0 on pictures of 640 × 480 from the bytes of JPEG files.

    Threads of the CPU decode and resize, as many as there are cores, up to 16.
    """
    count, at_once = (8, 4) if tiny else (4096, 256)
    encoder = build_encoder(EncoderConfig("efficientnet_lite0"), pretrained=False).to(device)
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG")
    picture = file.getvalue()

    def prepared(_: int) -> Any:
        return encoder.prepare(encoder.read(picture))

    def forward(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return encoder(channels_last(pixels.to(device, non_blocking=True)))

    with ThreadPoolExecutor(min(16, available_cores())) as pool:

        def all_pictures() -> None:
            for pixels in batches():
                forward(pixels)

        def batches() -> Iterator[Tensor]:
            ahead = [pool.submit(prepared, n) for n in range(at_once)]
            for first in range(at_once, count + at_once, at_once):
                now, ahead = (
                    ahead,
                    [pool.submit(prepared, n) for n in range(first, first + at_once)],
                )
                yield torch.from_numpy(stacked([one.result() for one in now])[0])

        seconds = timed(all_pictures, device, 1)
        pixels = next(batches()).to(device)
        alone = timed(lambda: forward(pixels), device, 5)
    return {
        "pictures at once": at_once,
        "pictures/s from JPEG": count / seconds,
        "pictures/s of the network alone": at_once / alone,
    }


def machine(device: torch.device) -> dict[str, str]:
    """Describe this machine."""
    found = {"device": str(device), "torch": torch.__version__}
    if device.type == "cuda":
        import triton

        found |= {
            "device": torch.cuda.get_device_name(),
            "cuda": str(torch.version.cuda),
            "triton": triton.__version__,
        }
    return found


def timed(run: Callable[[], object], device: torch.device, rounds: int, calls: int = 1) -> float:
    """Return the median seconds of one of `calls` calls, after three rounds that do not count."""
    seconds: list[float] = []
    for _ in range(rounds + 3):
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            run()
        wait(device)
        seconds.append((time.perf_counter() - began) / calls)
    return statistics.median(seconds[3:])


def wait(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peaks(device: torch.device, tiny: bool) -> dict[str, float]:
    """Measure the best matrix product and copy of this run."""
    size, copied = (64, 2**16) if tiny else (8192, 2**30)
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    b = torch.empty(copied, device=device, dtype=torch.uint8)
    c = torch.empty_like(b)
    return {
        "gemm_flops": 2 * size**3 / timed(lambda: a @ a, device, 10),
        "bytes_per_s": 2 * copied / timed(lambda: c.copy_(b), device, 10),
    }
