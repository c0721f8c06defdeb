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
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.config_errors import ConfigProblems, Problem, shown
from pipeline.redaction import holds_password
from pipeline.storage import absolute_address

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
    checkpoint_every: int = Field(
        0,
        ge=0,
        description="Inner steps between two checkpoints inside a task, a multiple of "
        "segment_steps; 0: a task that loses its worker begins again.",
    )
    snapshot_every: int = Field(
        0,
        ge=0,
        description="Inner steps between two snapshots of a task's parameters, kept in the run's "
        "`snapshots/`, a multiple of segment_steps; 0: none.",
    )

    @model_validator(mode="after")
    def _whole_segments(self) -> InnerConfig:
        for key in ("checkpoint_every", "snapshot_every"):
            if getattr(self, key) % self.segment_steps:
                text = (
                    f"{getattr(self, key)} is no multiple of the {self.segment_steps} steps of a "
                    "segment (inner.segment_steps)"
                )
                causes = (("inner", key), ("inner", "segment_steps"))
                raise ConfigProblems(Problem(causes[0], text, causes))
        return self


class OuterConfig(Section):
    """The outer optimizer, which moves what is shared across tasks."""

    optimizer: Literal["sgd", "nesterov", "adam", "delayed-nesterov"] = Field(
        "sgd", description="Outer optimizer."
    )
    lr: float = Field(0.1, gt=0, description="Learning rate of the outer step.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum β of outer Nesterov.")
    delay: int = Field(
        4, ge=1, description="delayed-nesterov: outer steps (N) between two changes of momentum."
    )
    activation: float = Field(
        0.0,
        ge=0,
        description="delayed-nesterov: share (c) of the momentum that a step in between moves by; "
        "at most 1/delay.",
    )
    weight_decay: float = Field(0.0, ge=0, description="Factor of the L2 penalty's gradient.")
    schedule: Literal["constant", "linear", "cosine", "halving"] = Field(
        "constant",
        description="lr over the run: constant, linear or cosine to 0, halved every `halve_every`.",
    )
    halve_every: int = Field(2000, ge=1, description="Outer steps of `schedule: halving`.")

    @model_validator(mode="after")
    def _shares_no_more_than_there_is(self) -> OuterConfig:
        if self.activation * self.delay > 1:
            keys = (("outer", "activation"), ("outer", "delay"))
            text = f"expected at most 1/{self.delay} (1 over outer.delay), got {self.activation:g}"
            raise ConfigProblems(Problem(keys[0], text, keys))
        return self


class MetaConfig(Section):
    """The outer loop."""

    num_steps: int = Field(
        1000, ge=0, description="Outer steps of the run; meta.steps is short for it."
    )
    batch_size: int = Field(20, ge=1, description="Tasks in a meta-batch.")
    mode: Literal["sync", "async"] = Field(
        "sync",
        description="sync: an outer step waits for its whole meta-batch; async: for the next "
        "apply_every tasks that end, and results depend on which those are.",
    )
    apply_every: int = Field(
        0, ge=0, description="async: ended tasks that make an outer step; 0: batch_size."
    )
    max_staleness: int = Field(
        4, ge=0, description="async: outer steps taken since a task began up to which it counts."
    )
    stale: Literal["drop", "downweight"] = Field(
        "drop",
        description="async: a task beyond max_staleness by s outer steps is dropped, or counts "
        "1 / (1 + s).",
    )
    max_hours: float = Field(
        0.0,
        ge=0,
        description="Hours of meta-training, those before a resumption included, after which no "
        "outer step is begun; 0: no limit.",
    )
    max_inner_steps: int = Field(
        0, ge=0, description="Inner steps after which no outer step is begun; 0: no limit."
    )
    max_env_steps: int = Field(
        0, ge=0, description="Env steps after which no outer step is begun; 0: no limit."
    )
    max_bad_tasks: int = Field(
        20, ge=0, description="Non-finite tasks in a row after which the run stops."
    )


class WorkersConfig(Section):
    """Where inner loops run. Nothing here changes the result, but `threads` and `device`."""

    count: int | Literal["auto"] = Field(
        2,
        description="Task workers; 0 runs all in this process; auto: as many as the cluster has "
        "room for, also when nodes join or leave.",
    )
    threads: int = Field(1, ge=1, description="Torch threads of a worker.")
    device: str = Field(
        "auto",
        description="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.",
    )
    gpus_per_worker: float = Field(
        0.0, ge=0, description="Share of a GPU for each worker; 0 with a GPU divides them evenly."
    )
    placement: Literal["pack", "spread"] = Field(
        "pack", description="Whether workers fill one node after another, or all nodes evenly."
    )
    accelerator: str = Field(
        "", description="Kind of GPU that workers are to have, as Ray names it (A100, H100, …)."
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="Ray labels of the nodes that workers may be on."
    )
    wait_for_nodes_s: float = Field(
        0.0,
        ge=0,
        description="Seconds that a worker may wait for the cluster to grow, as its autoscaler "
        "does; 0: what does not fit now is refused.",
    )
    address: str = Field(
        "",
        description="Ray cluster to join (auto, or host:port); empty starts one on this machine.",
    )
    queue_depth: int = Field(2, ge=1, description="Tasks handed to a worker ahead of time.")
    max_retries: int = Field(
        3, ge=0, description="New attempts at a task in a row that come no further than the last."
    )
    task_timeout_s: float = Field(
        600.0,
        ge=0,
        description="Seconds without a segment after which a worker, or without an answer after "
        "which an aggregator, is taken to hang and is replaced; 0: never.",
    )

    @field_validator("count", mode="before")
    @classmethod
    def _is_count(cls, count: object) -> object:
        if count == "auto" or (type(count) is int and count >= 0):
            return count
        raise ValueError(f"expected auto or a whole number of at least 0, got {shown(count)}")

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


class JobConfig(Section):
    """A job that `outerloop submit` hands to a cluster."""

    max_retries: int = Field(
        3,
        ge=0,
        description="New starts of a job's driver in a row that come no further than the last; "
        "each goes on from the last good checkpoint.",
    )
    num_cpus: float = Field(
        0.0, ge=0, description="CPU cores that the driver keeps to itself, besides the workers'."
    )
    stop_wait_s: int = Field(
        120,
        ge=1,
        description="Seconds for a checkpoint that `outerloop jobs stop` leaves before it kills.",
    )


class CheckpointConfig(Section):
    """Checkpoints of the outer loop."""

    every: int = Field(10, ge=1, description="Outer steps between two checkpoints.")
    keep: int = Field(3, ge=2, description="Newest checkpoints that are kept.")
    copy_to: str = Field(
        "",
        description="Storage that each checkpoint, and all that `train --resume` needs on another "
        "machine, is copied to: s3://, gs://, a path, or what fsspec knows; empty: none.",
    )

    @field_validator("copy_to")
    @classmethod
    def _no_password(cls, address: str) -> str:
        if holds_password(address):
            raise ValueError(
                "a configuration is kept and shown, so it holds no password, and no #…; give it by "
                "the environment (AWS_ACCESS_KEY_ID, …, or fsspec's FSSPEC_<PROTOCOL>_<OPTION>)"
            )
        return absolute_address(address)


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
    target_return: float | None = Field(
        None,
        allow_inf_nan=False,
        description="control, atari: return that adaptations are to reach; the env steps to it and "
        "the share that got there are reported; null: none.",
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

    system_every_s: float = Field(
        30.0,
        ge=0,
        description="Seconds between two points of the driver's machine (CPU, memory, disk, GPU), "
        "as system/… in MLflow; 0: none.",
    )
    nested_runs: int = Field(
        40,
        ge=0,
        le=1000,
        description="Adaptations of the meta-test, at most, that become nested runs in "
        "MLflow, each with its curve; 0: none.",
    )

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str) -> str:
        if holds_password(uri):
            raise ValueError(
                "a configuration is kept and shown, so it holds no password, and no #…; give the "
                "address by MLFLOW_TRACKING_URI"
            )
        return uri
