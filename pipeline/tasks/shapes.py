"""What goes into a network and comes out of it, by the tasks that it is for."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Experiment
from pipeline.data.image_sets import CHANNELS, load_image_set
from pipeline.data.paths import data_root
from pipeline.data.registry import image_shape, load_image_classes
from pipeline.data.splits import split_classes
from pipeline.learners import is_joint
from pipeline.messages import TaskSpec
from pipeline.task_kinds import ENVIRONMENT_KINDS


@dataclass(frozen=True, slots=True)
class TaskShape:
    """Sizes of a task's inputs and outputs."""

    in_channels: int  # of an image, or numbers in an input that is none
    image_size: int  # height and width in pixels; 0 for an input that is no image
    num_outputs: int  # classes, targets of a regression, or actions
    continuous: bool = False  # whether outputs are for actions that are numbers


def task_shape(experiment: Experiment) -> TaskShape:
    """Return the sizes that the tasks of `experiment` have in meta-training."""
    if experiment.task.kind == "sinusoids":
        return TaskShape(in_channels=1, image_size=0, num_outputs=1)
    if experiment.task.kind == "datasets":
        return TaskShape(CHANNELS, experiment.datasets.image_size, most_classes(experiment))
    if experiment.task.kind in ENVIRONMENT_KINDS:
        from pipeline.tasks.environment_pools import environment_pool

        return environment_pool(experiment).shape()
    channels, side = image_shape(experiment.data.name)
    num_outputs = experiment.task.num_ways
    if experiment.task.kind == "episodes":
        joint = is_joint(experiment)
        num_outputs = _num_classes(experiment) if joint else experiment.episodes.num_ways
    return TaskShape(channels, side, num_outputs)


def num_train_tasks(experiment: Experiment) -> int:
    """Return how many tasks meta-training has, where they are numbered."""
    if experiment.task.kind == "datasets":
        return len(experiment.datasets.train)
    if experiment.task.kind == "control":
        return experiment.environments.num_train
    if experiment.task.kind == "atari":
        return len(experiment.environments.games)
    return experiment.data.num_train_tasks


def planned_steps(experiment: Experiment, spec: TaskSpec) -> int:
    """Return the inner steps that `experiment` gives the work of `spec`."""
    planned = experiment.inner if spec.purpose == "train" else experiment.evaluation
    return planned.num_steps


def most_classes(experiment: Experiment) -> int:
    """Return the number of classes of the data set that has most: the width of the output layer."""
    config = experiment.datasets
    return max(len(load_image_set(name, config.image_size).class_names) for name in config.names)


def _num_classes(experiment: Experiment) -> int:
    """Return how many classes meta-training has, turned ones included."""
    dataset = load_image_classes(experiment.data.name)
    split = split_classes(dataset, experiment.episodes.split, experiment.seed, data_root())
    return len(split.train) * (4 if experiment.episodes.rotations else 1)


@dataclass(frozen=True, slots=True)
class Preparation:
    """How inputs are made ready for a network: sizes, and what channels are normalised by."""

    image_size: int  # 0 for inputs that are no images
    channels: int
    mean: tuple[float, ...]  # of each channel, where pixels lie between 0 and 1
    std: tuple[float, ...]
