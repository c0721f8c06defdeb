"""The network of an experiment, its flat parameters, and where they start."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from algorithms.baselines import initial_parameters
from algorithms.models.actor_critic import ActorCritic
from algorithms.models.atari import NatureEncoder, SmallAtariEncoder
from algorithms.models.conv import ConvEncoder
from algorithms.models.headed import HeadedNetwork
from algorithms.models.perceptron import PerceptronEncoder, TanhEncoder
from algorithms.models.residual import ResNet12, WideResNet
from algorithms.parameters import ParameterVector
from algorithms.types import Encoder
from pipeline.config import Experiment
from pipeline.config_learning import IMAGE_ENCODERS, ModelConfig
from pipeline.errors import BadInputError
from pipeline.exported_weights import encoder_weights, load_weights
from pipeline.layout import OuterLayout
from pipeline.learners import episode_learner, is_episodic, trajectory_learner
from pipeline.seeding import derive_seed
from pipeline.task_kinds import ENVIRONMENT_KINDS
from pipeline.tasks.shapes import TaskShape, num_train_tasks, task_shape


def build_network(
    experiment: Experiment,
    device: torch.device | str = "cpu",
    shape: TaskShape | None = None,
) -> tuple[nn.Module, ParameterVector]:
    """Return what is learned, on `device`, and the flat vector that its parameters are views of.

    For a meta-learner of episodes that is the learner itself; for one that watches inner loops
    it is the network that they train. Without `shape` it is that of the experiment's tasks, whose
    data set is then looked at.
    """
    shape = shape or task_shape(experiment)
    encoder = build_encoder(experiment, shape)
    model: nn.Module
    if is_episodic(experiment):
        model = episode_learner(experiment, encoder, shape.num_outputs)
    elif experiment.task.kind in ENVIRONMENT_KINDS:
        model = ActorCritic(encoder, shape.num_outputs, shape.continuous)
    else:
        model = HeadedNetwork(encoder, shape.num_outputs)
    model = model.to(device)
    vector = ParameterVector(model)
    vector.bind(model)
    return model, vector


def build_encoder(experiment: Experiment, shape: TaskShape) -> Encoder:
    """Return the encoder that the section `model` describes, for inputs of `shape`.

    BadInputError if the images are too small for it, or its pre-trained weights are not there.
    """
    is_image = shape.image_size > 0
    if (experiment.model.encoder in IMAGE_ENCODERS) != is_image:
        seen = "images: expected atari-small or nature" if is_image else "vectors: expected tanh"
        name = experiment.environments.name
        raise BadInputError(f"model.encoder={experiment.model.encoder}: {name} shows {seen}")
    try:
        encoder = _new_encoder(experiment.model, shape)
    except ValueError as error:
        raise BadInputError(f"model: {error}") from None
    if experiment.model.pretrained:
        folder = Path(experiment.model.pretrained)
        load_weights(encoder, encoder_weights(folder), f"model.pretrained={folder}")
    return encoder


def _new_encoder(config: ModelConfig, shape: TaskShape) -> Encoder:
    if config.encoder == "perceptron":
        return PerceptronEncoder(shape.in_channels)
    if config.encoder == "tanh":
        return TanhEncoder(shape.in_channels)
    if config.encoder == "atari-small":
        return SmallAtariEncoder(shape.in_channels, shape.image_size)
    if config.encoder == "nature":
        return NatureEncoder(shape.in_channels, shape.image_size)
    if config.encoder == "resnet12":
        return ResNet12(shape.in_channels, shape.image_size)
    if config.encoder == "wide-resnet":
        return WideResNet(shape.in_channels, shape.image_size, width=config.width)
    return ConvEncoder(
        in_channels=shape.in_channels,
        image_size=shape.image_size,
        num_filters=config.num_filters,
        num_blocks=config.num_blocks,
        batch_norm=config.batch_norm,
        pool_first=config.pool_first,
        num_pooled_blocks=min(config.num_pooled_blocks, config.num_blocks),
    )


def outer_layout(experiment: Experiment, vector: ParameterVector) -> OuterLayout:
    """Return how the outer vector is laid out for this experiment's meta-learner."""
    shards = experiment.aggregator.shards
    if is_episodic(experiment):
        return OuterLayout(vector.size, 0, 0, shards)
    is_multi_head = trajectory_learner(experiment).multi_head
    if not is_multi_head and experiment.model.shared == "all":
        return OuterLayout(vector.size, 0, 0, shards)
    body = vector.head_offset()
    num_heads = num_train_tasks(experiment) if is_multi_head else 0
    return OuterLayout(body, vector.size - body, num_heads, shards)


def initial_outer_parameters(experiment: Experiment) -> Tensor:
    """Return the outer vector at version 0: random, every output layer on its own."""
    model, vector = build_network(experiment)
    layout = outer_layout(experiment, vector)
    first = initial_parameters(model, derive_seed(experiment.seed, "init"))
    heads = [
        initial_parameters(model, derive_seed(experiment.seed, "head", index))[layout.body :]
        for index in range(layout.num_heads)
    ]
    return torch.cat([first[: layout.body], *heads])
