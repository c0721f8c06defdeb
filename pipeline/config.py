"""An experiment: one complete, validated, frozen description of a run.

A YAML file plus dotted overrides becomes an `Experiment`; unknown keys are refused, and each
field's sentence is what `outerloop show` prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from algorithms import find_learner, is_episodic
from pipeline.config_environments import (
    AgentConfig,
    EnvironmentsConfig,
    check_environments,
)
from pipeline.config_errors import ConfigProblems, Problem, problems_of
from pipeline.config_learning import (
    ENCODERS,
    AlgorithmConfig,
    DataConfig,
    DatasetsConfig,
    EpisodesConfig,
    ModelConfig,
    TaskConfig,
)
from pipeline.config_sections import (
    AggregatorConfig,
    CheckpointConfig,
    EvaluationConfig,
    InnerConfig,
    JobConfig,
    MetaConfig,
    OuterConfig,
    Section,
    TrackingConfig,
    WorkersConfig,
)
from pipeline.config_sources import Draft, FindBase, read_draft
from pipeline.task_kinds import ENVIRONMENT_KINDS, EPISODE_KINDS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Experiment(Section):
    """A whole experiment."""

    name: str = Field("custom", description="Name; by default that of the file.")
    description: str = Field("", description="What the experiment is, in a line.")
    seed: int = Field(0, ge=0, lt=2**63, description="Root of every random draw.")
    algorithm: AlgorithmConfig = AlgorithmConfig()  # type: ignore[call-arg]
    model: ModelConfig = ModelConfig()  # type: ignore[call-arg]
    data: DataConfig = DataConfig()  # type: ignore[call-arg]
    task: TaskConfig = TaskConfig()  # type: ignore[call-arg]
    datasets: DatasetsConfig = DatasetsConfig()  # type: ignore[call-arg]
    episodes: EpisodesConfig = EpisodesConfig()  # type: ignore[call-arg]
    environments: EnvironmentsConfig = EnvironmentsConfig()  # type: ignore[call-arg]
    agent: AgentConfig = AgentConfig()  # type: ignore[call-arg]
    inner: InnerConfig = InnerConfig()  # type: ignore[call-arg]
    outer: OuterConfig = OuterConfig()  # type: ignore[call-arg]
    meta: MetaConfig = MetaConfig()  # type: ignore[call-arg]
    workers: WorkersConfig = WorkersConfig()  # type: ignore[call-arg]
    aggregator: AggregatorConfig = AggregatorConfig()  # type: ignore[call-arg]
    checkpoint: CheckpointConfig = CheckpointConfig()  # type: ignore[call-arg]
    evaluation: EvaluationConfig = EvaluationConfig()  # type: ignore[call-arg]
    tracking: TrackingConfig = TrackingConfig()  # type: ignore[call-arg]
    job: JobConfig = JobConfig()  # type: ignore[call-arg]

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                "expected at most 64 letters, digits, '.', '_' and '-', a letter or digit first, "
                f"got '{name:.100}'"
            )
        return name

    @model_validator(mode="after")
    def _normalisable(self) -> Experiment:
        learner = find_learner(self.algorithm.name)
        is_minibatch = not is_episodic(learner) or learner.joint
        if is_minibatch and self.model.batch_norm and self.task.batch_size < 2:
            raise ConfigProblems(
                Problem(
                    ("task", "batch_size"),
                    f"batch-norm needs at least 2 examples, not {self.task.batch_size}: raise it, "
                    "or set model.batch_norm=false",
                    (("task", "batch_size"), ("model", "batch_norm")),
                )
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        kind, name = self.task.kind, self.algorithm.name
        causes = (("algorithm", "name"), ("task", "kind"))
        learner = find_learner(name)
        self._check_test()
        self._check_target()
        self._check_pretrained(is_episodic(learner) and learner.wants_pretrained)
        if not is_episodic(learner):
            if kind in EPISODE_KINDS and getattr(learner, "multi_head", False):
                text = f"{name} keeps an output layer for each task, and episodes never return"
                raise ConfigProblems(
                    Problem(causes[0], f"{text}: set task.kind=alphabets or datasets", causes)
                )
            self._check_encoder()
            if kind in EPISODE_KINDS:
                self._check_ways(any_way=False)
            if kind in ENVIRONMENT_KINDS:
                check_environments(kind, self.environments, self.agent, self.inner.epochs)
            return self
        wanted = {"episodes": "classification", "sinusoids": "regression"}.get(kind)
        kinds = learner.kinds
        if wanted not in kinds:
            fitting = {"classification": "episodes", "regression": "sinusoids"}
            expected = " or ".join(f"task.kind={fitting[k]}" for k in sorted(kinds))
            text = f"{name} learns from episodes: expected {expected}, got {kind}"
            raise ConfigProblems(Problem(("task", "kind"), text, causes))
        self._check_encoder()
        self._check_groups()
        self._check_ways(learner.any_way)
        return self

    def _check_test(self) -> None:
        if self.episodes.test == "drawn":
            return
        wanted = {
            "task.kind": "episodes",
            "data.name": "omniglot",
            "episodes.split": "lake",  # or characters of the runs were seen before
            "episodes.num_ways": 20,
            "episodes.num_shots": 1,
        }
        found = {
            "task.kind": self.task.kind,
            "data.name": self.data.name,
            "episodes.split": self.episodes.split,
            "episodes.num_ways": self.episodes.num_ways,
            "episodes.num_shots": self.episodes.num_shots,
        }
        wrong = [f"{key}={wanted[key]}" for key in wanted if found[key] != wanted[key]]
        if wrong:
            key = ("episodes", "test")
            raise ConfigProblems(Problem(key, f"one-shot-runs need {', '.join(wrong)}", (key,)))

    def _check_target(self) -> None:
        if self.evaluation.target_return is None or self.task.kind in ENVIRONMENT_KINDS:
            return
        keys = (("evaluation", "target_return"), ("task", "kind"))
        text = f"tasks of task.kind={self.task.kind} have no returns: expected null"
        raise ConfigProblems(Problem(keys[0], text, keys))

    def _check_pretrained(self, wants: bool) -> None:
        if wants == bool(self.model.pretrained):
            return
        expected = (
            "expected the folder of an exported backbone (`outerloop export RUN DIR`)"
            if wants
            else "trains its own encoder: expected nothing"
        )
        key = ("model", "pretrained")
        raise ConfigProblems(
            Problem(key, f"{self.algorithm.name} {expected}", (key, ("algorithm", "name")))
        )

    def _check_encoder(self) -> None:
        fitting = ENCODERS[self.task.kind]
        if self.model.encoder in fitting:
            return
        *others, last = fitting
        expected = f"{', '.join(others)} or {last}" if others else last
        keys = (("model", "encoder"), ("task", "kind"))
        text = f"task.kind={self.task.kind} takes {expected}, not {self.model.encoder}"
        raise ConfigProblems(Problem(keys[0], text, keys))

    def _check_groups(self) -> None:
        keys = (("meta", "batch_size"), ("episodes", "group"))
        if self.meta.batch_size % self.episodes.group:
            text = (
                f"{self.meta.batch_size} episodes cannot be cut into groups of "
                f"{self.episodes.group} (episodes.group)"
            )
            raise ConfigProblems(Problem(keys[0], text, keys))

    def _check_ways(self, any_way: bool) -> None:
        ways, name = self.episodes.train_num_ways, self.algorithm.name
        if any_way or ways in (0, self.episodes.num_ways):
            return
        text = (
            f"{name} has as many outputs as ways: expected 0 or {self.episodes.num_ways} "
            f"(episodes.num_ways), got {ways}"
        )
        key = ("episodes", "train_num_ways")
        raise ConfigProblems(Problem(key, text, (key, ("episodes", "num_ways"))))


def load_experiment(
    path: Path, overrides: Iterable[str] = (), find_base: FindBase = Path
) -> Experiment:
    """Read the YAML file `path` over what it extends, apply `overrides` and validate.

    `overrides` are `dotted.key=value`. `find_base` gives the file that an `extends` refers to.
    Raises BadInputError, in one line with all that is wrong, for a file that is none, a key that
    is unknown or there twice, and a value of the wrong type or range.
    """
    draft = read_draft(path, find_base)
    draft.tree.setdefault("name", path.stem)
    draft.override(overrides)
    return _checked(draft)


def build_experiment(tree: dict[str, Any], source: str) -> Experiment:
    """Validate `tree`; BadInputError names `source`, the keys, the values and what was expected."""
    draft = Draft()
    draft.add(source, tree)
    return _checked(draft)


def _checked(draft: Draft) -> Experiment:
    try:
        experiment = Experiment.model_validate(draft.tree)
    except ValidationError as error:
        raise draft.error(problems_of(error, Experiment)) from None
    if draft.problems:
        raise draft.error()
    return experiment


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
