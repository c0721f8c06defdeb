"""Sections of an experiment that say how it is run; each key with type, bounds, explanation."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.redaction import redact

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Section(BaseModel):
    """Base of all sections: frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation in (int, float):
            raise PydanticCustomError("number", "true and false are no numbers")
        return value


class InnerConfig(Section):
    """The inner loop: training on one task."""

    optimizer: Literal["sgd", "adam", "rmsprop"] = Field(
        "sgd", description="Optimizer within a task."
    )
    lr: float = Field(0.1, gt=0, description="Learning rate of the inner loop.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of inner SGD.")
    beta1: float = Field(0.9, ge=0, lt=1, description="First decay rate of inner Adam.")
    alpha: float = Field(0.99, ge=0, lt=1, description="Decay rate of inner RMSProp.")
    eps: float = Field(
        1e-4, gt=0, description="Added to the root of the mean square in inner RMSProp."
    )
    max_grad_norm: float = Field(
        0.0, ge=0, description="Norm that an inner step's gradient is clipped to; 0: not clipped."
    )
    num_steps: int = Field(100, ge=1, description="Inner steps of one task (K).")
    epochs: int = Field(
        0,
        ge=0,
        description="Passes over a data set in meta-training, in place of num_steps; 0: off.",
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Learning rate within a task: constant, or cosine down to 0."
    )
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
    weight_decay: float = Field(0.0, ge=0, description="Factor of the L2 penalty's gradient.")
    schedule: Literal["constant", "linear", "cosine", "halving"] = Field(
        "constant",
        description="lr over the run: constant, linear or cosine to 0, halved every `halve_every`.",
    )
    halve_every: int = Field(2000, ge=1, description="Outer steps of `schedule: halving`.")


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
        0,
        ge=0,
        description="Outer steps between validations (episodes: the best is tested in the end) or "
        "meta-tests (alphabets) while training; 0: none.",
    )
    transductive: bool = Field(
        False,
        description="Whether an inner loop's network answers all queries of an episode together.",
    )


class TrackingConfig(Section):
    """Where the run is tracked."""

    experiment: str = Field("outerloop", min_length=1, description="MLflow experiment.")
    uri: str = Field(
        "", description="MLflow server; empty takes MLFLOW_TRACKING_URI, else the run store."
    )
    live_every_s: float = Field(
        30.0,
        ge=0,
        description="Seconds between two points of a task under way, as live/… in MLflow; 0: none.",
    )

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str) -> str:
        if "@" in uri or redact(uri) != uri:
            raise ValueError(
                "a configuration is kept and shown, so it holds no password; give the address by "
                "MLFLOW_TRACKING_URI"
            )
        return uri
