"""Several runs' meta-tests as one, provided that they are the same test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.errors import BadInputError
from pipeline.evaluation import Evaluation, TaskCurve


def compare(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Merge the meta-tests of several runs.

    Runs that differ only in their seed are one method: its interval is over (task, seed) pairs.
    A method is called by its algorithm's name, and by its run's id where that would leave two
    with one name. A baseline depends on nothing but the seed, so one of each is kept per seed.

    BadInputError if the runs' protocols differ in more than the seed (and what is drawn from
    it: the held-out tasks, which must agree between runs of one seed).
    """
    if not evaluations:
        raise BadInputError("compare: expected at least one run")
    _check_same_protocol(evaluations)
    curves = [c for label, group in _by_label(evaluations) for e in group for c in _own(e, label)]
    baselines: dict[tuple[str, int], list[TaskCurve]] = {}
    for evaluation in evaluations:
        for method in evaluation.methods:
            if method != evaluation.method:
                key = (method, _seed(evaluation))
                baselines.setdefault(key, _stamped(evaluation, method, method))
    curves += [curve for kept in baselines.values() for curve in kept]
    seeds = sorted({_seed(evaluation) for evaluation in evaluations})
    tasks = sorted({task for e in evaluations for task in e.protocol["test_tasks"]})
    protocol = evaluations[0].protocol | {"seed": seeds, "test_tasks": tasks}
    return Evaluation(tuple(curves), protocol)


def _check_same_protocol(evaluations: Sequence[Evaluation]) -> None:
    first = evaluations[0]
    same_seed: dict[int, Evaluation] = {}
    for other in evaluations:
        _check_pair(first, other, {"seed", "test_tasks"})
        _check_pair(same_seed.setdefault(_seed(other), other), other, set())


def _check_pair(one: Evaluation, other: Evaluation, free: set[str]) -> None:
    for key in sorted((one.protocol.keys() | other.protocol.keys()) - free):
        values = one.protocol.get(key), other.protocol.get(key)
        if values[0] != values[1]:
            raise BadInputError(
                f"{one.run_id} and {other.run_id} were tested differently: {key} is "
                f"{values[0]!r:.200} in the one and {values[1]!r:.200} in the other; "
                "only runs with the same meta-test can be compared"
            )


def _by_label(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[Evaluation]]]:
    """Return the runs of each method under the name that tells it from all others."""
    groups = _same_method(evaluations)
    taken = [group[0].method for group in groups]
    taken += sorted({m for e in evaluations for m in e.methods if m != e.method})
    labelled = []
    for group in groups:
        method = group[0].method
        others = f" and {len(group) - 1} more" if len(group) > 1 else ""
        name = group[0].run_id + others
        labelled.append((method if taken.count(method) == 1 else f"{method} ({name})", group))
    return labelled


def _same_method(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Group the runs that differ only in their seed."""
    alike: dict[str, list[Evaluation]] = defaultdict(list)
    for evaluation in evaluations:
        alike[repr((evaluation.method, sorted(evaluation.learner.items())))].append(evaluation)
    groups: list[list[Evaluation]] = []
    for group in alike.values():
        distinct = len({_seed(evaluation) for evaluation in group}) == len(group)
        groups += [group] if distinct else [[evaluation] for evaluation in group]
    return groups


def _own(evaluation: Evaluation, label: str) -> list[TaskCurve]:
    return _stamped(evaluation, evaluation.method, label)


def _stamped(evaluation: Evaluation, method: str, label: str) -> list[TaskCurve]:
    seed = _seed(evaluation)
    return [replace(curve, method=label, seed=seed) for curve in evaluation.of_method(method)]


def _seed(evaluation: Evaluation) -> int:
    seed: Any = evaluation.protocol["seed"]
    return int(seed)
