"""Several runs' meta-tests as one, provided that they are the same test."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import BadInputError
from pipeline.evaluation import Evaluation, TaskCurve
from pipeline.method_labels import distinct_labels
from pipeline.task_kinds import ENVIRONMENT_KINDS, EPISODE_KINDS

INNER_STEPS_FACTORS = ("meta.num_steps", "meta.batch_size", "inner.num_steps")


@dataclass(frozen=True, slots=True)
class Training:
    """What went into one method of a comparison; None where its runs do not say."""

    outer_steps: int | None
    inner_steps: int | None  # of all tasks of all outer steps, in one run
    num_tasks: int | None  # to meta-train on
    seeds: tuple[int, ...]
    run_ids: tuple[str, ...]  # none: a baseline, which is not meta-trained
    num_episodes: int | None = None  # that it was meta-trained on, where tasks are episodes
    transductive: bool | None = None  # whether it answers the queries of an episode together
    augmented: bool | None = None  # whether its meta-training episodes were


@dataclass(frozen=True, eq=False)
class Comparison:
    """The methods of several runs on the same meta-test."""

    evaluation: Evaluation
    training: dict[str, Training]  # by method, in the evaluation's order
    targets: tuple[float | None, ...] = ()  # of returns, where the runs do not agree on one

    def differences(self) -> list[str]:
        """Return a line for each thing but the method in which the rows differ."""
        trained = {name: one for name, one in self.training.items() if one.run_ids}
        lines = [
            _difference("Budgets differ: meta-trained for", trained, _budget),
            _difference("Queries are answered", trained, _answering),
            _difference("Meta-training images are", trained, _augmentation),
            _difference("Meta-training tasks differ: trained on", trained, _num_tasks),
            _difference(
                "Seeds differ, and with them the held-out tasks: tested under", trained, _seeds
            ),
        ]
        if self.targets:
            named = ", ".join("none" if one is None else f"{one:g}" for one in self.targets)
            lines.append(f"Target returns differ ({named}): --target-return X judges all by one.")
        return [line for line in lines if line]


def compare(evaluations: Sequence[Evaluation], target_return: float | None = None) -> Comparison:
    """Merge the meta-tests of several runs.

    Runs that differ only in their seed are one method: its interval is over (task, seed) pairs.
    A method is called by its algorithm's name, and by the settings that differ where that would
    leave two with one name. A baseline depends on nothing but the seed, so one of each is kept
    per seed. How methods were meta-trained may differ: `Comparison.differences` tells. Returns
    are judged by `target_return`, else by the runs' own target if they have the same.

    BadInputError if the runs' protocols differ in more than the seed (and what is drawn from
    it: the held-out tasks, which must agree between runs of one seed).
    """
    if not evaluations:
        raise BadInputError("compare: expected at least one run")
    _check_same_protocol(evaluations)
    groups = _same_method(evaluations)
    curves: list[TaskCurve] = []
    training: dict[str, Training] = {}
    for label, group in zip(distinct_labels(groups), groups, strict=True):
        curves += [curve for one in group for curve in _stamped(one, one.method, label)]
        training[label] = _training(group)
    baselines = _baselines(evaluations)
    curves += [curve for kept in baselines.values() for curve in kept]
    for method in dict.fromkeys(method for method, _ in baselines):
        tested = tuple(sorted(seed for name, seed in baselines if name == method))
        training[method] = Training(None, None, None, tested, ())
    seeds = sorted({one.seed for one in evaluations})
    tasks = sorted({task for one in evaluations for task in one.protocol["test_tasks"]})
    protocol = evaluations[0].protocol | {"seed": seeds, "test_tasks": tasks}
    targets = dict.fromkeys(one.target_return for one in evaluations)
    if target_return is not None:
        _check_returns(evaluations[0], target_return)
        targets = {target_return: None}
    agreed = next(iter(targets)) if len(targets) == 1 else None
    merged = Evaluation(tuple(curves), protocol, target_return=agreed)
    return Comparison(merged, training, tuple(targets) if len(targets) > 1 else ())


def _check_returns(evaluation: Evaluation, target_return: float) -> None:
    kind = evaluation.protocol.get("task.kind", "alphabets")
    if kind not in ENVIRONMENT_KINDS:
        raise BadInputError(
            f"--target-return {target_return:g}: tasks of task.kind={kind} have no returns; "
            "compare without it"
        )
    if not math.isfinite(target_return):
        raise BadInputError(f"--target-return {target_return}: expected a finite number")


def _check_same_protocol(evaluations: Sequence[Evaluation]) -> None:
    first = evaluations[0]
    same_seed: dict[int, Evaluation] = {}
    for other in evaluations:
        _check_pair(first, other, {"seed", "test_tasks"})
        _check_pair(same_seed.setdefault(other.seed, other), other, set())


def _check_pair(one: Evaluation, other: Evaluation, free: set[str]) -> None:
    for key in sorted((one.protocol.keys() | other.protocol.keys()) - free):
        for run in (one, other):
            if key not in run.protocol:  # written by an earlier version of outerloop
                raise BadInputError(
                    f"{run.run_id}: its meta-test does not say {key}; "
                    f"run `outerloop evaluate {run.run_id}` again"
                )
        values = one.protocol[key], other.protocol[key]
        if values[0] != values[1]:
            raise BadInputError(
                f"{one.run_id} and {other.run_id} were tested differently: {key} is "
                f"{values[0]!r:.200} in the one and {values[1]!r:.200} in the other; "
                "only runs with the same meta-test can be compared"
            )


def _same_method(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Group the runs that differ only in their seed; the same run twice over is no such group."""
    alike: dict[str, list[Evaluation]] = defaultdict(list)
    for evaluation in evaluations:
        alike[repr((evaluation.method, sorted(evaluation.learner.items())))].append(evaluation)
    groups: list[list[Evaluation]] = []
    for group in alike.values():
        distinct = len({one.seed for one in group}) == len(group)
        groups += [group] if distinct else [[one] for one in group]
    return groups


def _baselines(evaluations: Sequence[Evaluation]) -> dict[tuple[str, int], list[TaskCurve]]:
    """Return the curves of each baseline under each seed.

    On alphabets a baseline is the same network for all; untrained learners of episodes are as many
    as there are learners.
    """
    kept: dict[tuple[str, int], list[TaskCurve]] = {}
    for evaluation in evaluations:
        for method in evaluation.methods:
            if method != evaluation.method:
                is_shared = evaluation.protocol.get("task.kind") not in EPISODE_KINDS
                label = method if is_shared else f"{method} ({evaluation.method})"
                curves = _stamped(evaluation, method, label)
                kept.setdefault((label, evaluation.seed), curves)
    return kept


def _stamped(evaluation: Evaluation, method: str, label: str) -> list[TaskCurve]:
    seed = evaluation.seed
    return [replace(curve, method=label, seed=seed) for curve in evaluation.of_method(method)]


def _training(group: Sequence[Evaluation]) -> Training:
    learner: dict[str, Any] = group[0].learner  # the group's runs share it
    factors = [learner.get(key) for key in INNER_STEPS_FACTORS]
    known = [factor for factor in factors if factor is not None]
    return Training(
        outer_steps=learner.get("meta.num_steps"),
        inner_steps=math.prod(known) if len(known) == len(factors) else None,
        num_tasks=_num_train_tasks(group[0]),
        seeds=tuple(one.seed for one in group),
        run_ids=tuple(one.run_id for one in group),
        num_episodes=_num_episodes(learner),
        transductive=learner.get("transductive"),
        augmented=learner.get("episodes.augment"),
    )


def _num_train_tasks(evaluation: Evaluation) -> int | None:
    learner = evaluation.learner
    if "transductive" in learner:
        return None
    kind = evaluation.protocol.get("task.kind")
    if kind == "atari":
        return len(learner["environments.games"])
    key = "environments.num_train" if kind == "control" else "data.num_train_tasks"
    found: int | None = learner.get(key)
    return found


def _num_episodes(learner: dict[str, Any]) -> int | None:
    if "transductive" not in learner:
        return None
    return int(learner["meta.num_steps"] * learner["meta.batch_size"])


def _difference(
    what: str, training: dict[str, Training], said: Callable[[Training], str]
) -> str | None:
    """Return a line that names the methods by what is `said` of them, if that is not the same."""
    methods: dict[str, list[str]] = defaultdict(list)
    for method, one in training.items():
        methods[said(one)].append(method)
    if len(methods) == 1:
        return None
    return f"{what} " + "; ".join(f"{text} ({', '.join(m)})" for text, m in methods.items()) + "."


def _budget(one: Training) -> str:
    if one.num_episodes is not None:
        return f"{_count(one.outer_steps)} outer steps, {_count(one.num_episodes)} episodes"
    return f"{_count(one.outer_steps)} outer and {_count(one.inner_steps)} inner steps"


def _answering(one: Training) -> str:
    return "together (transductive)" if one.transductive else "one by one"


def _augmentation(one: Training) -> str:
    return "augmented" if one.augmented else "not augmented"


def _num_tasks(one: Training) -> str:
    return _count(one.num_tasks)


def _seeds(one: Training) -> str:
    return ", ".join(map(str, sorted(one.seeds)))


def _count(value: int | None) -> str:
    return "an unknown number of" if value is None else f"{value:,}"
