"""The sections of an experiment: each key with its type, bounds and explanation."""

from __future__ import annotations

import inspect
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from algorithms import META_LEARNERS
from pipeline.config_errors import ConfigProblems, Problem, known_names
from pipeline.config_sources import DEFAULT_ALGORITHM
from pipeline.data import DATASETS

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Section(BaseModel):
    """Base of all sections: frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AlgorithmConfig(Section):
    """The meta-learner."""

    name: str = Field(
        DEFAULT_ALGORITHM, description="Meta-learner, by its name in algorithms.META_LEARNERS."
    )
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Options of the meta-learner, named as in its class."
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in META_LEARNERS:
            raise ValueError(f"unknown meta-learner '{name}' {known_names(name, META_LEARNERS)}")
        return name

    @model_validator(mode="after")
    def _takes_options(self) -> AlgorithmConfig:
        learner = META_LEARNERS[self.name]
        known = inspect.signature(learner).parameters
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
            learner(**self.options)
        except (TypeError, ValueError) as error:
            option, _, text = str(error).partition(": ")
            if option not in self.options:
                raise ConfigProblems(Problem(("algorithm", "options"), str(error))) from None
            raise ConfigProblems(Problem(("algorithm", "options", option), text)) from None
        return self


class ModelConfig(Section):
    """The network that the tasks train."""

    num_filters: int = Field(64, ge=1, le=4096, description="Filters in each convolution.")
    num_blocks: int = Field(4, ge=1, le=4, description="Blocks of conv, pool, norm and ReLU.")
    batch_norm: bool = Field(True, description="Whether blocks normalise over the minibatch.")


class DataConfig(Section):
    """The data set and its split into meta-training and held-out tasks."""

    name: str = Field("omniglot", description="Data set, by its name in `outerloop data list`.")
    num_train_tasks: int = Field(20, ge=1, description="Alphabets to meta-train on.")
    num_test_tasks: int = Field(10, ge=1, description="Alphabets held out for the meta-test.")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(f"unknown data set '{name}' {known_names(name, DATASETS)}")
        return name


class TaskConfig(Section):
    """What one task is: its classes, its examples, its minibatches."""

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
        if self.batch_size > num_examples:
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


class InnerConfig(Section):
    """The inner loop: training on one task."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="Optimizer within a task.")
    lr: float = Field(0.1, gt=0, description="Learning rate of the inner loop.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of inner SGD.")
    num_steps: int = Field(100, ge=1, description="Inner steps of one task (K).")
    precision: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="Arithmetic of forward and backward; parameters stay float32."
    )
    segment_steps: int = Field(
        100, ge=1, description="Inner steps that are streamed together as one segment."
    )


class OuterConfig(Section):
    """The outer optimizer, which moves what is shared across tasks."""

    optimizer: Literal["sgd", "nesterov", "adam"] = Field("sgd", description="Outer optimizer.")
    lr: float = Field(0.1, gt=0, description="Learning rate of the outer step.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of outer Nesterov.")


class MetaConfig(Section):
    """The outer loop."""

    num_steps: int = Field(
        1000, ge=0, description="Outer steps of the run; meta.steps is short for it."
    )
    batch_size: int = Field(20, ge=1, description="Tasks in a meta-batch.")
    max_bad_tasks: int = Field(
        20, ge=0, description="Non-finite tasks in a row after which the run stops."
    )


class WorkersConfig(Section):
    """Where inner loops run. Nothing here changes the result, but `threads` and `device`."""

    count: int = Field(2, ge=0, description="Task workers; 0 runs all in this process.")
    threads: int = Field(1, ge=1, description="Torch threads of a worker.")
    device: str = Field(
        "auto",
        description="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.",
    )
    gpus_per_worker: float = Field(
        0.0, ge=0, description="Share of a GPU for each worker; 0 with a GPU divides them evenly."
    )
    address: str = Field(
        "",
        description="Ray cluster to join (auto, or host:port); empty starts one on this machine.",
    )
    queue_depth: int = Field(2, ge=1, description="Tasks handed to a worker ahead of time.")
    max_retries: int = Field(3, ge=0, description="New attempts at a task after a failure.")

    @field_validator("device")
    @classmethod
    def _is_device(cls, device: str) -> str:
        if not DEVICE.fullmatch(device):
            raise ValueError(f"expected auto, cpu, cuda or cuda:N, got '{device}'")
        return device

    @field_validator("address")
    @classmethod
    def _no_ray_client(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError(
                f"'{address}': Ray's client cannot stream segments; run on a node "
                "of the cluster with workers.address=auto"
            )
        return address


class AggregatorConfig(Section):
    """The parameter server."""

    shards: int = Field(1, ge=1, description="Actors that share the outer parameters.")


class CheckpointConfig(Section):
    """Checkpoints of the outer loop."""

    every: int = Field(10, ge=1, description="Outer steps between two checkpoints.")
    keep: int = Field(3, ge=2, description="Newest checkpoints that are kept.")


class EvaluationConfig(Section):
    """The meta-test on held-out tasks."""

    num_steps: int = Field(100, ge=1, description="Inner steps of adaptation on a held-out task.")
    repeats: int = Field(1, ge=1, description="Independent adaptations of each held-out task.")
    baselines: tuple[str, ...] = Field(
        ("scratch",), description="Methods to adapt on the same tasks, batches and budget."
    )
    every: int = Field(
        0, ge=0, description="Outer steps between meta-tests while training; 0: at the end only."
    )


class TrackingConfig(Section):
    """Where the run is tracked."""

    experiment: str = Field("outerloop", min_length=1, description="MLflow experiment.")
    uri: str = Field(
        "", description="MLflow server; empty takes MLFLOW_TRACKING_URI, else the run store."
    )

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str) -> str:
        if "@" in uri:
            raise ValueError(
                "a configuration is kept and shown, so it holds no password; give the address by "
                "MLFLOW_TRACKING_URI"
            )
        return uri
