"""An experiment: one complete, validated, frozen description of a run.

A YAML file plus dotted overrides becomes an `Experiment`; unknown keys are refused, and each
field's sentence is what `outerloop show` prints.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from algorithms import META_LEARNERS
from pipeline.errors import BadInputError

MAX_CONFIG_BYTES = 1 << 20


class Section(BaseModel):
    """Base of all sections: frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AlgorithmConfig(Section):
    """The meta-learner."""

    name: str = Field("leap", description="Meta-learner, by its name in algorithms.META_LEARNERS.")
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Options of the meta-learner, named as in its class."
    )

    @model_validator(mode="after")
    def _known(self) -> AlgorithmConfig:
        if self.name not in META_LEARNERS:
            raise ValueError(
                f"algorithm.name: unknown meta-learner '{self.name}'; "
                f"known: {', '.join(sorted(META_LEARNERS))}"
            )
        try:
            META_LEARNERS[self.name](**self.options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"algorithm.options: {error}") from None
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


class TaskConfig(Section):
    """What one task is: its classes, its examples, its minibatches."""

    num_ways: int = Field(20, ge=2, description="Characters of the alphabet in a task.")
    num_train_drawings: int = Field(15, ge=1, description="Drawings a character to train on.")
    num_test_drawings: int = Field(5, ge=1, description="Drawings a character held out.")
    batch_size: int = Field(20, ge=1, le=65536, description="Examples in a minibatch.")
    augment: bool = Field(
        True, description="Random affine maps: rotation 0-360°, shift ±20 %, scale 0.8-1.2."
    )


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

    num_steps: int = Field(1000, ge=0, description="Outer steps of the run.")
    batch_size: int = Field(20, ge=1, description="Tasks in a meta-batch.")
    max_bad_tasks: int = Field(
        20, ge=0, description="Non-finite tasks in a row after which the run stops."
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_steps(cls, data: Any) -> Any:
        """Take `steps` for `num_steps`: the short form that the command line documents."""
        if isinstance(data, dict) and "steps" in data and "num_steps" not in data:
            data = {("num_steps" if k == "steps" else k): v for k, v in data.items()}
        return data


class WorkersConfig(Section):
    """Where inner loops run. Nothing here changes the result, but `threads` and `device`."""

    count: int = Field(2, ge=0, description="Task workers; 0 runs all in this process.")
    threads: int = Field(1, ge=1, description="Torch threads of a worker.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
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

    @field_validator("address")
    @classmethod
    def _no_ray_client(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError(
                f"workers.address: '{address}': Ray's client cannot stream segments; run on a node "
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
                "tracking.uri: a configuration is kept and shown, so it holds no password; give "
                "the address by MLFLOW_TRACKING_URI"
            )
        return uri


class Experiment(Section):
    """A whole experiment."""

    name: str = Field("custom", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Name.")
    description: str = Field("", description="What the experiment is, in a line.")
    seed: int = Field(0, ge=0, lt=2**63, description="Root of every random draw.")
    algorithm: AlgorithmConfig = AlgorithmConfig()  # type: ignore[call-arg]
    model: ModelConfig = ModelConfig()  # type: ignore[call-arg]
    data: DataConfig = DataConfig()  # type: ignore[call-arg]
    task: TaskConfig = TaskConfig()  # type: ignore[call-arg]
    inner: InnerConfig = InnerConfig()  # type: ignore[call-arg]
    outer: OuterConfig = OuterConfig()  # type: ignore[call-arg]
    meta: MetaConfig = MetaConfig()  # type: ignore[call-arg]
    workers: WorkersConfig = WorkersConfig()  # type: ignore[call-arg]
    aggregator: AggregatorConfig = AggregatorConfig()  # type: ignore[call-arg]
    checkpoint: CheckpointConfig = CheckpointConfig()  # type: ignore[call-arg]
    evaluation: EvaluationConfig = EvaluationConfig()  # type: ignore[call-arg]
    tracking: TrackingConfig = TrackingConfig()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _normalisable(self) -> Experiment:
        if self.model.batch_norm and self.task.batch_size < 2:
            raise ValueError(
                f"task.batch_size: {self.task.batch_size}; batch-norm needs at least 2 examples: "
                "raise it, or set model.batch_norm=false"
            )
        return self


def load_experiment(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read the YAML file `path`, apply `overrides` (`dotted.key=value`) and validate.

    Raises BadInputError, in one line, for a file that is none, an unknown key, or a value of
    the wrong type or range.
    """
    tree = read_yaml(path)
    tree.setdefault("name", path.stem)
    for override in overrides:
        apply_override(tree, override)
    return build_experiment(tree, source=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that the YAML file `path` holds; BadInputError if there is none."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise BadInputError(
                f"{path}: {path.stat().st_size} bytes; an experiment file has at most "
                f"{MAX_CONFIG_BYTES}"
            )
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInputError(f"{path}: is no YAML file: {reason}") from None
    if not isinstance(tree, dict):
        raise BadInputError(f"{path}: expected keys and values, e.g. 'seed: 0'; got {_kind(tree)}")
    return tree


def build_experiment(tree: dict[str, Any], source: str) -> Experiment:
    """Validate `tree`; BadInputError names `source`, the key, the value and what was expected."""
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise BadInputError(f"{source}: {_first_problem(error)}") from None


def to_yaml(experiment: Experiment) -> str:
    """Return the resolved experiment as YAML."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def field_rows(section: BaseModel, prefix: str = "") -> list[tuple[str, Any, str]]:
    """Return (dotted key, value, explanation) of every field, depth first."""
    rows: list[tuple[str, Any, str]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            rows += field_rows(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value, field.description or ""))
    return rows


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set a value in `tree` by `dotted.key=value`; BadInputError for a text that is none."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise BadInputError(f"override '{override}': expected key=value, e.g. meta.steps=50")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadInputError(f"override '{override:.100}': is no YAML value") from None
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise BadInputError(f"override '{override}': '{parent}' holds no keys")
        tree = child
    if last == "steps" and parents == ["meta"]:
        last = "num_steps"
    tree[last] = value


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        near = get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    message = message[0].lower() + message[1:]
    return f"{key}: {message}; got {problem['input']!r:.100}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Experiment
    for part in location[:-1]:
        section = section.model_fields[str(part)].annotation
    return sorted(section.model_fields)


def _kind(tree: object) -> str:
    return "nothing" if tree is None else f"a {type(tree).__name__}"
