"""Everything that changes while a run trains, saved and loaded whole."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regard.config import Recipe
from regard.errors import CheckpointError
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder
from regard.training.objectives.base import Objective
from regard.training.optimizer import MovingAverage, build_optimizer

_POSITION = ("epoch", "batch", "step", "best", "lowest_loss", "stale", "parts")


@dataclass
class TrainState:
    """The only mutable part of a run.

    Attributes:
        decoder: in training.
        encoder: frozen, or trained with the decoder.
        objective: with its buffers (REINFORCE's baseline).
        optimizer: of the decoder and the trainable weights of the encoder.
        average: moving average of the trained weights, or None.
        generator: of dropout, sampling and views.
        epoch: number of finished epochs.
        batch: batches of this epoch already taken.
        step: updates made.
        best: best metric so far; None before the first evaluation.
        lowest_loss: lowest val loss so far; None before the first evaluation.
        stale: evaluations since the best metric or the lowest loss.
        parts: number of parts of training.batch_size captions in a step. A resumed run keeps it
            on any number of devices.
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
    lowest_loss: float | None = None
    stale: int = 0
    parts: int = 1

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
        if recipe.optimizer.ema_decay:
            state.average = MovingAverage(state.parameters(), recipe.optimizer.ema_decay)
        return state

    def record_scores(self, scores: Mapping[str, float], metric: str) -> bool:
        """Record an evaluation; return whether it is the best so far by `metric`.

        An evaluation with a new lowest loss also counts as an improvement: with few pictures the
        scores of generated captions stay at zero long after the loss began to fall.

        Args:
            scores: by name, with `loss`.
            metric: name of the score to compare; a lower `loss` and a higher other score is better.
        """
        score, loss = scores[metric], scores["loss"]
        sign = -1 if metric == "loss" else 1
        better = self.best is None or sign * score > sign * self.best
        fell = self.lowest_loss is None or loss < self.lowest_loss
        self.best = score if better else self.best
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

        Everything is copied: `state_dict` shares memory with the live weights, and saving swaps
        those with their averages before the file is written.
        """
        trains_encoder = any(p.requires_grad for p in self.encoder.parameters())
        live = {
            "decoder": self.decoder.state_dict(),
            "encoder": self.encoder.state_dict() if trains_encoder else {},
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "generator": self.generator.get_state(),
            "position": {name: getattr(self, name) for name in _POSITION},
        }
        return copy.deepcopy(live)

    def load(self, saved: dict[str, Any]) -> None:
        """Load what `to_dict` returned.

        Raises:
            CheckpointError: the saved state is damaged or of another model.
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
