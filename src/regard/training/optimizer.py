"""Optimizers, learning-rate schedules and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from regard.config import OptimizerConfig
from regard.model.encoders import Encoder


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
