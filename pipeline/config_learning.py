"""Sections of an experiment that say what is learned: meta-learner, network, data, tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from algorithms import META_LEARNERS, find_learner, is_episodic
from algorithms.models.conv import ConvEncoder
from pipeline.config_errors import ConfigProblems, Problem, known_names
from pipeline.config_sections import Section
from pipeline.config_sources import DEFAULT_ALGORITHM
from pipeline.data import DATASETS
from pipeline.data.image_folder import PREFIX
from pipeline.data.image_sets import known_image_sets

KNOWN_IMAGE_SETS = known_image_sets()


def known_options(learner: str) -> list[str]:
    """Return the names of the options of a meta-learner; what it is built around is none."""
    found = find_learner(learner)
    parameters = inspect.signature(found).parameters.values()
    return [p.name for p in parameters if not is_episodic(found) or p.kind is p.KEYWORD_ONLY]


def try_options(learner: str, options: dict[str, Any]) -> None:
    """Raise TypeError or ValueError, the option's name first, for options it cannot take."""
    found = find_learner(learner)
    make: Callable[..., Any] = found
    if is_episodic(found):
        make(ConvEncoder(image_size=8, num_filters=2, num_blocks=1), 2, **options)
    else:
        make(**options)


class AlgorithmConfig(Section):
    """The meta-learner."""

    name: str = Field(
        DEFAULT_ALGORITHM,
        description="Meta-learner: a name in algorithms.META_LEARNERS, or module:Class.",
    )
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Options of the meta-learner, named as in its class."
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            find_learner(name)
        except LookupError as error:
            raise ValueError(f"{error} {known_names(name, META_LEARNERS)}") from None
        return name

    @model_validator(mode="after")
    def _takes_options(self) -> AlgorithmConfig:
        known = known_options(self.name)
        unknown = [
            Problem(
                ("algorithm", "options", option),
                f"unknown option of {self.name} {known_names(option, known)}",
            )
            for option in self.options
            if option not in known
        ]
        if unknown:
            raise ConfigProblems(*unknown)
        try:
            try_options(self.name, self.options)
        except (TypeError, ValueError) as error:
            option, _, text = str(error).partition(": ")
            if option not in self.options:
                raise ConfigProblems(Problem(("algorithm", "options"), str(error))) from None
            raise ConfigProblems(Problem(("algorithm", "options", option), text)) from None
        return self


class ModelConfig(Section):
    """The network that the tasks train."""

    encoder: Literal[
        "conv", "resnet12", "wide-resnet", "perceptron", "tanh", "atari-small", "nature"
    ] = Field(
        "conv",
        description="Encoder: conv, resnet12, wide-resnet (WRN-28-10), perceptron; of environments "
        "tanh (vectors), atari-small (Mnih et al. 2013), nature (2015).",
    )
    num_filters: int = Field(64, ge=1, le=4096, description="Filters in each convolution.")
    num_blocks: int = Field(4, ge=1, le=4, description="Blocks of conv, pool, norm and ReLU.")
    batch_norm: bool = Field(True, description="Whether blocks normalise over the minibatch.")
    pool_first: bool = Field(
        True, description="Whether a block pools before it normalises; few-shot papers: false."
    )
    num_pooled_blocks: int = Field(
        4, ge=0, le=4, description="Blocks that pool, the first ones; relation networks: 2."
    )
    width: int = Field(10, ge=1, le=20, description="Factor k of the wide residual network.")
    shared: Literal["all", "body"] = Field(
        "all",
        description="What is shared across tasks: all parameters, or all but the output layer, "
        "which then starts anew in each task.",
    )
    pretrained: str = Field(
        "",
        description="Folder of `outerloop export` whose encoder is taken and stays as it is, for "
        "the meta-learners that want one (sib).",
    )


IMAGE_ENCODERS = ("conv", "resnet12", "wide-resnet", "atari-small", "nature")
# The encoders that tasks of a kind can take.
ENCODERS = {
    "alphabets": ("conv", "resnet12", "wide-resnet"),
    "datasets": ("conv", "resnet12", "wide-resnet"),
    "episodes": ("conv", "resnet12", "wide-resnet"),
    "sinusoids": ("perceptron",),
    "control": ("tanh", "perceptron", "atari-small", "nature"),
    "atari": ("atari-small", "nature"),
}


class DataConfig(Section):
    """The data set and its split into meta-training and held-out tasks."""

    name: str = Field(
        "omniglot",
        description="Data set: a name in `outerloop data list`; or folder:PATH, a folder a class.",
    )
    num_train_tasks: int = Field(20, ge=1, description="Alphabets to meta-train on.")
    num_test_tasks: int = Field(10, ge=1, description="Alphabets held out for the meta-test.")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in DATASETS and not name.startswith(PREFIX):
            raise ValueError(f"unknown data set '{name}' {known_names(name, DATASETS)}")
        if name.startswith(PREFIX):  # so that a run can be resumed from another folder
            return f"{PREFIX}{Path(name.removeprefix(PREFIX)).expanduser().absolute()}"
        return name


class TaskConfig(Section):
    """What one task is: its classes, its examples, its minibatches."""

    kind: Literal["alphabets", "datasets", "episodes", "sinusoids", "control", "atari"] = Field(
        "alphabets",
        description="alphabets (keys below), datasets (whole data sets, section `datasets`), "
        "episodes or sinusoids (section `episodes`), control or atari (section `environments`).",
    )
    num_ways: int = Field(20, ge=2, description="Characters of the alphabet in a task.")
    num_train_drawings: int = Field(15, ge=1, description="Drawings a character to train on.")
    num_test_drawings: int = Field(5, ge=1, description="Drawings a character held out.")
    batch_size: int = Field(20, ge=1, le=65536, description="Examples in a minibatch.")
    augment: bool = Field(
        True, description="Random affine maps: rotation 0-360°, shift ±20 %, scale 0.8-1.2."
    )

    @model_validator(mode="after")
    def _fills_a_minibatch(self) -> TaskConfig:
        num_examples = self.num_ways * self.num_train_drawings
        if self.kind == "alphabets" and self.batch_size > num_examples:
            keys = ("batch_size", "num_ways", "num_train_drawings")
            raise ConfigProblems(
                Problem(
                    ("task", "batch_size"),
                    f"{self.batch_size} is more than the {num_examples} examples that a task "
                    f"trains on ({self.num_ways} of task.num_ways by {self.num_train_drawings} of "
                    "task.num_train_drawings)",
                    tuple(("task", key) for key in keys),
                )
            )
        return self


class DatasetsConfig(Section):
    """Whole image data sets, each one task."""

    names: tuple[str, ...] = Field(
        ("digits", "glyphs"),
        min_length=2,
        description="Data sets: cifar10, mnist, … or folder:PATH, a folder for each class.",
    )
    held_out: tuple[str, ...] = Field(
        ("digits",), min_length=1, description="Those of them that are for the meta-test alone."
    )
    validation: tuple[str, ...] = Field(
        (),
        description="Those of them by which the best checkpoint is chosen, also never trained on.",
    )
    image_size: int = Field(
        32, ge=8, le=512, description="Height and width that pictures are resampled to."
    )

    @property
    def train(self) -> tuple[str, ...]:
        """The data sets to meta-train on."""
        apart = {*self.held_out, *self.validation}
        return tuple(name for name in self.names if name not in apart)

    @model_validator(mode="after")
    def _divides_the_names(self) -> DatasetsConfig:
        def refuse(key: str, text: str) -> ConfigProblems:
            return ConfigProblems(Problem(("datasets", key), text, (("datasets", key),)))

        for key in ("names", "held_out", "validation"):
            names = getattr(self, key)
            for name in names:
                if names.count(name) > 1:
                    raise refuse(key, f"'{name}' is there twice")
                if name not in self.names:
                    raise refuse(
                        key, f"'{name}' is none of datasets.names {known_names(name, self.names)}"
                    )
                if name not in KNOWN_IMAGE_SETS and not name.startswith(PREFIX):
                    raise refuse(
                        key, f"unknown data set '{name}' {known_names(name, KNOWN_IMAGE_SETS)}"
                    )
        both = sorted({*self.held_out} & {*self.validation})
        if both:
            raise refuse("validation", f"'{both[0]}' is held out for the meta-test")
        if not self.train:
            raise refuse("held_out", "leaves no data set to meta-train on")
        return self


class EpisodesConfig(Section):
    """Few-shot episodes: N-way K-shot, drawn from classes that are split between the phases."""

    num_ways: int = Field(5, ge=2, description="Classes of an episode (N).")
    num_shots: int = Field(1, ge=1, description="Support examples a class (K).")
    num_queries: int = Field(15, ge=1, description="Query examples a class.")
    train_num_ways: int = Field(
        0, ge=0, description="Classes of an episode in meta-training; 0: num_ways."
    )
    train_num_shots: int = Field(
        0, ge=0, description="Support examples a class in meta-training; 0: num_shots."
    )
    train_num_queries: int = Field(
        0, ge=0, description="Query examples a class in meta-training; 0: num_queries."
    )
    split: str = Field(
        "standard", description="Which classes are for meta-training, validation and test."
    )
    rotations: bool = Field(
        False, description="Whether each class turned by 90, 180 and 270° is one more class."
    )
    augment: bool = Field(
        False, description="Random crops and flips of meta-training images (colour images only)."
    )
    group: int = Field(
        1, ge=1, description="Episodes that a worker takes at a time; their mean is one gradient."
    )
    test: Literal["drawn", "one-shot-runs"] = Field(
        "drawn",
        description="Meta-test: episodes drawn from the test classes, or the 20 one-shot runs of "
        "Lake et al. (2015; Omniglot, 20 ways, split lake).",
    )
    num_test: int = Field(600, ge=2, description="Episodes of the meta-test, if drawn.")
    num_val: int = Field(
        200,
        ge=2,
        description="Episodes of a validation, every `evaluation.every` outer steps.",
    )
