"""What goes into a network and comes out of it, by the tasks that it is for."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Experiment
from pipeline.data import DATASETS


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
    dataset = DATASETS[experiment.data.name]
    ways = experiment.task.num_ways
    if experiment.task.kind == "episodes":
        ways = experiment.episodes.num_ways
    return TaskShape(dataset.channels, dataset.side, ways)


@dataclass(frozen=True, slots=True)
class Preparation:
    """How inputs are made ready for a network: sizes, and what channels are normalised by."""

    image_size: int  # 0 for inputs that are no images
    channels: int
    mean: tuple[float, ...]  # of each channel, where pixels lie between 0 and 1
    std: tuple[float, ...]
