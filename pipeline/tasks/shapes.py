"""What goes into a network and comes out of it, by the tasks that it is for."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Experiment
from pipeline.data.paths import data_root
from pipeline.data.registry import image_shape, load_image_classes
from pipeline.data.splits import split_classes
from pipeline.learners import is_joint


@dataclass(frozen=True, slots=True)
class TaskShape:
    """Sizes of a task's inputs and outputs."""

    in_channels: int  # of an image, or numbers in an input that is none
    image_size: int  # height and width in pixels; 0 for an input that is no image
    num_outputs: int  # classes, or targets of a regression


def task_shape(experiment: Experiment) -> TaskShape:
    """Return the sizes that the tasks of `experiment` have in meta-training."""
    if experiment.task.kind == "sinusoids":
        return TaskShape(in_channels=1, image_size=0, num_outputs=1)
    channels, side = image_shape(experiment.data.name)
    num_outputs = experiment.task.num_ways
    if experiment.task.kind == "episodes":
        joint = is_joint(experiment)
        num_outputs = _num_classes(experiment) if joint else experiment.episodes.num_ways
    return TaskShape(channels, side, num_outputs)


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
