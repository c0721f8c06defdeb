"""Meta-steps of ours and of peers on the same meta-batches, from the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor

from algorithms import EpisodeLearner, ParameterVector
from algorithms.types import Episode
from jobs.bench.episode_peers import Peer, by_class, plain_network
from pipeline.config import Experiment
from pipeline.network import build_network, initial_outer_parameters
from pipeline.tasks.episode_family import EpisodeFamily


class Steps(Protocol):
    """What takes meta-steps."""

    def differentiate(self, episodes: Sequence[Episode]) -> Tensor:
        """Find the outer gradient of the mean loss of `episodes`; return that loss (shape [])."""

    def gradient(self) -> Tensor:
        """Return what `differentiate` found, as one vector [P]."""

    def step(self, episodes: Sequence[Episode]) -> None:
        """Take one meta-step."""


class OurSteps:
    """Meta-steps as `pipeline.episode_worker` finds their gradients, with Adam."""

    def __init__(self, experiment: Experiment, dtype: torch.dtype) -> None:
        model, _ = build_network(experiment)
        self._vector = ParameterVector(model.to(dtype), dtype)
        self._vector.load(initial_outer_parameters(experiment).to(dtype))
        self._learner = cast(EpisodeLearner, model).train()
        self._vector.values.grad = self._vector.grads
        self._optimizer = torch.optim.Adam([self._vector.values], lr=experiment.outer.lr)

    def differentiate(self, episodes: Sequence[Episode]) -> Tensor:
        """Find the outer gradient; return the mean loss."""
        self._vector.grads.zero_()
        losses = []
        for episode in episodes:
            loss = self._learner.episode_loss(episode).loss / len(episodes)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def gradient(self) -> Tensor:
        """Return the outer gradient [P]."""
        return self._vector.grads

    def step(self, episodes: Sequence[Episode]) -> None:
        """Take one meta-step."""
        self.differentiate(episodes)
        self._optimizer.step()


def build_steps(experiment: Experiment, peer: type[Peer] | None, dtype: torch.dtype) -> Steps:
    """Return ours, or those of `peer`, from the experiment's initial parameters."""
    if peer is None:
        return OurSteps(experiment, dtype)
    is_maml = experiment.algorithm.name == "maml"
    num_outputs = experiment.episodes.num_ways if is_maml else None
    net = plain_network(experiment.model.num_filters, num_outputs, not is_maml).to(dtype)
    model, vector = build_network(experiment)
    vector.load(initial_outer_parameters(experiment))
    with torch.no_grad():
        for theirs, ours in zip(net.parameters(), model.parameters(), strict=True):
            theirs.copy_(ours)
    options = experiment.algorithm.options  # a learner without inner steps has neither
    num_steps, inner_lr = int(options.get("num_steps", 0)), float(options.get("lr", 0.0))
    return peer(net, num_steps, inner_lr, experiment.outer.lr)


def draw_batches(
    experiment: Experiment, count: int, dtype: torch.dtype, noise: float = 0.0
) -> list[list[Episode]]:
    """Return `count` meta-batches; support set and queries in the order of their classes.

    `noise` is the standard deviation of what is added to the pixels.
    """
    generator = torch.Generator().manual_seed(0)

    def pixels(images: Tensor) -> Tensor:
        values = images.to(dtype)
        if noise:
            values = values + noise * torch.randn(values.shape, generator=generator).to(dtype)
        return values

    family = EpisodeFamily(experiment, torch.device("cpu"))
    batches = [family.group(meta_step, 0) for meta_step in range(count)]
    return [
        [
            replace(episode, support_x=pixels(episode.support_x), query_x=pixels(episode.query_x))
            for episode in map(by_class, batch)
        ]
        for batch in batches
    ]
