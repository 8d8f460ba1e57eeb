"""The state of a run: everything that changes in training, saved and loaded as a whole."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from regard.config import OptimizerConfig, Recipe
from regard.errors import CheckpointError
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder
from regard.training.objectives.base import Objective

_PROGRESS = ("epoch", "batch", "step", "best", "best_loss", "lowest_loss", "stale")
_POSITION = (*_PROGRESS, "parts", "passes", "loss_scale", "unscaled_steps")


class MovingAverage:
    """Exponential moving average of a module's parameters, for evaluation.

    avg <- d avg + (1 - d) w, with d = min(decay, (1 + k) / (10 + k)) after k updates, so that
    the random initial weights are soon forgotten.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor]) -> None:
        """Add the weights after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for average, parameter in zip(self.average, parameters, strict=True):
            average.lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: Iterable[Tensor]) -> None:
        """Swap the averages with the weights; a second call swaps them back."""
        for average, parameter in zip(self.average, parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, object]:
        """Return the state for a resumed run."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Load what `state_dict` returned."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        for average, saved in zip(self.average, state["average"], strict=True):  # type: ignore[call-overload]
            average.copy_(saved)


@dataclass
class TrainState:
    """The only mutable part of a run.

    Attributes:
        decoder: in training.
        encoder: frozen, or trained with the decoder.
        objective: with its buffers (REINFORCE's baseline).
        optimizer: optimizer of the decoder and the trainable weights of the encoder.
        average: moving average of the trained weights, or None.
        generator: random generator of dropout, sampling and views.
        epoch: number of finished epochs.
        batch: batches of this epoch already taken.
        step: updates made.
        best: best metric so far; None before the first evaluation.
        best_loss: val loss of that evaluation; None before it, or in runs of older versions.
        lowest_loss: lowest val loss so far; None before the first evaluation.
        stale: evaluations since the best metric or the lowest loss.
        parts: number of parts of training.batch_size captions in a step. A resumed run keeps it
            on any number of devices.
        passes: number of passes that each part takes, more than 1 where memory was too small.
        scales_loss: whether the loss is scaled: in fp16, whose small gradients would else be 0.
        loss_scale: its factor.
        unscaled_steps: steps since the factor changed.
    """

    decoder: AttentionDecoder
    encoder: Encoder
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    generator: torch.Generator
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_loss: float | None = None
    lowest_loss: float | None = None
    stale: int = 0
    parts: int = 1
    passes: int = 1
    scales_loss: bool = False
    loss_scale: float = 2.0**16
    unscaled_steps: int = 0

    @classmethod
    def create(
        cls,
        recipe: Recipe,
        decoder: AttentionDecoder,
        encoder: Encoder,
        objective: Objective,
        world: int = 1,
    ) -> TrainState:
        """Return the state of a run at step 0 on `world` devices."""
        optimizer = build_optimizer(recipe.optimizer, decoder, encoder)
        generator = torch.Generator().manual_seed(recipe.training.seed)
        parts = world * recipe.training.accumulate
        state = cls(decoder, encoder, objective, optimizer, None, generator, parts=parts)
        state.scales_loss = recipe.training.precision == "fp16"
        if recipe.optimizer.ema_decay:
            state.average = MovingAverage(state.parameters(), recipe.optimizer.ema_decay)
        return state

    def record_scores(self, scores: Mapping[str, float], metric: str) -> bool:
        """Record an evaluation; return whether it is the best so far by `metric`.

        Of equal scores the one with the lower loss is better.

        An evaluation with a new lowest loss also counts as an improvement: with few pictures the
        scores of generated captions stay at zero long after the loss began to fall.

        Args:
            scores: by name, with `loss`.
            metric: name of the score to compare; a lower `loss` and a higher other score is better.
        """
        score, loss = scores[metric], scores["loss"]
        sign = -1 if metric == "loss" else 1
        better = self.best is None or sign * score > sign * self.best
        if score == self.best and self.best_loss is not None:
            better = loss < self.best_loss
        fell = self.lowest_loss is None or loss < self.lowest_loss
        if better:
            self.best, self.best_loss = score, loss
        self.lowest_loss = loss if fell else self.lowest_loss
        self.stale = 0 if better or fell else self.stale + 1
        return better

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained weights."""
        groups = self.optimizer.param_groups
        return [parameter for group in groups for parameter in group["params"]]

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Set evaluation mode and the averaged weights; restore the weights at the end."""
        self.decoder.eval()
        self.encoder.eval()
        if self.average is not None:
            self.average.swap(self.parameters())
        try:
            yield
        finally:
            if self.average is not None:
                self.average.swap(self.parameters())

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, so that the file loads with weights_only.

        Everything is copied, to the CPU: a run may be resumed on another device, and `state_dict`
        shares memory with the live weights, which saving swaps with their averages before the
        file is written.
        """
        trains_encoder = any(p.requires_grad for p in self.encoder.parameters())
        live = {
            "decoder": self.decoder.state_dict(),
            "encoder": self.encoder.state_dict() if trains_encoder else {},
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "generator": self.generator.get_state(),
            "device": next(self.decoder.parameters()).device.type,
            "position": {name: getattr(self, name) for name in _POSITION},
        }
        return _on_cpu(live)

    def load(self, saved: dict[str, Any]) -> None:
        """Load what `to_dict` returned.

        Raises:
            CheckpointError: the saved state is damaged or belongs to another model.
        """
        try:
            self.decoder.load_state_dict(saved["decoder"])
            if saved["encoder"]:
                self.encoder.load_state_dict(saved["encoder"])
            self.objective.load_state_dict(saved["objective"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(saved["average"])
            self.generator.set_state(saved["generator"])
            for name, value in saved["position"].items():
                if name not in _POSITION:
                    raise KeyError(name)
                setattr(self, name, value)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"training.pt does not fit this recipe: {error}. Resume with the recipe that the "
                "run was started with."
            ) from error


def _on_cpu(values: Any) -> Any:
    """Return a deep copy of nested dicts and lists with all tensors on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, dict):
        return {key: _on_cpu(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_on_cpu(value) for value in values]
    return copy.deepcopy(values)


# Optimizer and learning rate


def build_optimizer(
    config: OptimizerConfig, decoder: nn.Module, encoder: Encoder
) -> torch.optim.Optimizer:
    """Build the optimizer of the decoder and the trainable weights of the encoder.

    A fine-tuned encoder has its own, smaller learning rate. Its weights that are not pretrained
    (`Encoder.untrained_parameters`) have the decoder's rate.

    RMSProp has Graves' form with the constants of the released code (decay 0.95, momentum 0.9,
    epsilon 1e-4). That epsilon is added under the root, torch's outside: sqrt(v + 1e-4) lies
    between 0.71 and 1 times sqrt(v) + 1e-2, whereas 1e-4 outside the root would make the steps of
    a steady small gradient a hundred times as long.

    Adadelta has the constants of its paper and of the released code (decay 0.95, epsilon 1e-6).
    A learning rate of 1 gives the method of the paper, which has none.
    """
    fresh = encoder.untrained_parameters()
    tuned = [p for p in encoder.parameters() if p.requires_grad and all(p is not f for f in fresh)]
    groups = [{"params": [*decoder.parameters(), *fresh], "peak": config.learning_rate}]
    if tuned:
        groups.append({"params": tuned, "peak": config.encoder_learning_rate})
    for group in groups:
        group["lr"] = group["peak"]
    decay = config.weight_decay
    if config.name == "rmsprop":
        return _without_dynamo(torch.optim.RMSprop)(
            groups, alpha=0.95, momentum=0.9, eps=1e-2, centered=True, weight_decay=decay
        )
    if config.name == "adadelta":
        return _without_dynamo(torch.optim.Adadelta)(groups, rho=0.95, eps=1e-6, weight_decay=decay)
    # Fused: one pass over the weights instead of ten.
    method = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return _without_dynamo(method)(groups, weight_decay=decay, fused=True)


@cache
def _without_dynamo(method: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimizer class of torch without its hooks for torch.compile.

    The hooks are decorators that import torch._dynamo at their first call: 150 MB and a second or
    two. Nothing here is compiled.
    """

    def bare(function: Any) -> Any:
        return getattr(function, "__wrapped__", function)

    def step(self: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            bare(method.step)(self)

    tied = "add_param_group", "zero_grad", "state_dict", "load_state_dict"
    own = {name: bare(getattr(method, name)) for name in tied}
    return type(method.__name__, (method,), own | {"step": step})


def rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the factor of the peak rate at a step (counted from 0) of `steps`.

    Warm-up takes at most a fifth of the run, so that short runs also learn.
    """
    warmup = min(config.warmup_steps, max(1, steps // 5))
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if config.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
