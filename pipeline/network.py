"""The network of an experiment, its flat parameters, and where they start."""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms import META_LEARNERS
from algorithms.baselines import initial_parameters
from algorithms.models.conv import ConvNet
from algorithms.parameters import ParameterVector
from pipeline.config import Experiment
from pipeline.layout import OuterLayout
from pipeline.seeding import derive_seed

IMAGE_SIZE = 28


def build_network(
    experiment: Experiment, device: torch.device | str = "cpu"
) -> tuple[ConvNet, ParameterVector]:
    """Return the network on `device` and the flat vector that its parameters are views of."""
    model = ConvNet(
        num_classes=experiment.task.num_ways,
        image_size=IMAGE_SIZE,
        num_filters=experiment.model.num_filters,
        num_blocks=experiment.model.num_blocks,
        batch_norm=experiment.model.batch_norm,
    ).to(device)
    vector = ParameterVector(model)
    vector.bind(model)
    return model, vector


def outer_layout(experiment: Experiment, vector: ParameterVector) -> OuterLayout:
    """Return how the outer vector is laid out for this experiment's meta-learner."""
    shards = experiment.aggregator.shards
    learner = META_LEARNERS[experiment.algorithm.name](**experiment.algorithm.options)
    if not learner.multi_head:
        return OuterLayout(vector.size, 0, 0, shards)
    body = vector.head_offset()
    return OuterLayout(body, vector.size - body, experiment.data.num_train_tasks, shards)


def initial_outer_parameters(experiment: Experiment) -> Tensor:
    """Return the outer vector at version 0: random, every output layer on its own."""
    model, vector = build_network(experiment)
    layout = outer_layout(experiment, vector)
    first = initial_parameters(model, derive_seed(experiment.seed, "init"))
    if not layout.head:
        return first
    heads = [
        initial_parameters(model, derive_seed(experiment.seed, "head", index))[layout.body :]
        for index in range(layout.num_heads)
    ]
    return torch.cat([first[: layout.body], *heads])
