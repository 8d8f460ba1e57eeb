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
    """The only mutable thing of a run.

    Attributes:
        decoder: being trained.
        encoder: frozen, or trained with it.
        objective: with what it remembers (REINFORCE's baseline).
        optimizer: over the decoder and what the encoder trains.
        average: moving average of the trained weights, or None.
        generator: of dropout, sampling and mirrored views.
        epoch: counted from 0.
        batch: batches of this epoch already taken.
        step: updates made.
        best: best metric so far; None before the first evaluation.
        lowest_loss: lowest val loss so far; None likewise.
        stale: evaluations since one of them improved.
        parts: of training.batch_size captions each that make a step; the run keeps to them on
            whatever number of devices it goes on.
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
    def begin(
        cls,
        recipe: Recipe,
        decoder: AttentionDecoder,
        encoder: Encoder,
        objective: Objective,
        world: int = 1,
    ) -> TrainState:
        """Start a run from step 0 on `world` devices."""
        optimizer = build_optimizer(recipe.optimizer, decoder, encoder)
        generator = torch.Generator().manual_seed(recipe.training.seed)
        parts = world * recipe.training.accumulate
        state = cls(decoder, encoder, objective, optimizer, None, generator, parts=parts)
        if recipe.optimizer.ema_decay:
            state.average = MovingAverage(state.parameters(), recipe.optimizer.ema_decay)
        return state

    def judge(self, scores: Mapping[str, float], metric: str) -> bool:
        """Take in an evaluation; return whether it is the best so far by `metric`.

        A run grows stale only while the val loss does not fall either: on few pictures the
        scores of free-running captions stay at zero long after the loss began to fall.

        Args:
            scores: by name, `loss` among them.
            metric: that names the best; of the loss the lowest, else the highest.
        """
        score, loss = scores[metric], scores["loss"]
        gain = -score if metric == "loss" else score
        before = None if self.best is None else -self.best if metric == "loss" else self.best
        better = before is None or gain > before
        fell = self.lowest_loss is None or loss < self.lowest_loss
        self.best = score if better else self.best
        self.lowest_loss = loss if fell else self.lowest_loss
        self.stale = 0 if better or fell else self.stale + 1
        return better

    def parameters(self) -> list[nn.Parameter]:
        """Return the weights under training."""
        groups = self.optimizer.param_groups
        return [parameter for group in groups for parameter in group["params"]]

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Hold evaluation mode and the averaged weights; give both back."""
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
        """Return tensors and plain values only, so that it loads weights-only.

        Everything is copied: `state_dict` shares memory with the live weights, and a save
        exchanges those with their averages before the file is written.
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
        """Go on from `to_dict`.

        Raises:
            CheckpointError: the saved state is of another model or damaged.
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
