"""Names that tell the methods of a comparison apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.evaluation import Evaluation

OPTIONS = "algorithm.options"


def distinct_labels(groups: Sequence[Sequence[Evaluation]]) -> list[str]:
    """Return a label for each group of runs, no two the same and none a baseline's.

    The algorithm's name; where several groups bear it, also the settings in which these differ,
    as in `leap outer.lr=0.5`; where settings do not tell them apart, the seed, and where even
    that leaves two alike, the end of the run's id.
    """
    baselines = {m for group in groups for one in group for m in one.methods if m != one.method}
    settings = [_settings(group[0]) for group in groups]
    labels = []
    for group, own in zip(groups, settings, strict=True):
        method = group[0].method
        others = [s for g, s in zip(groups, settings, strict=True) if g[0].method == method]
        keys = [key for key in own if any(key not in s or s[key] != own[key] for s in others)]
        labels.append(" ".join([method, *(f"{key}={_said(own[key])}" for key in keys)]))
    labels = _told_apart(labels, [f"seed={group[0].seed}" for group in groups])
    ends = [group[0].run_id.rpartition("-")[2] for group in groups]
    ids = ends if len(set(ends)) == len(ends) else [group[0].run_id for group in groups]
    return _told_apart(labels, [f"({name})" for name in ids], baselines)


def _told_apart(
    labels: Sequence[str], additions: Sequence[str], taken: frozenset[str] | set[str] = frozenset()
) -> list[str]:
    """Return the labels, with its addition each that is taken or that another has too.

    An addition that all who share a label would get tells nothing, and is left out.
    """
    told = []
    for label, addition in zip(labels, additions, strict=True):
        sharing = {a for other, a in zip(labels, additions, strict=True) if other == label}
        told.append(f"{label} {addition}" if len(sharing) > 1 or label in taken else label)
    return told


def _settings(run: Evaluation) -> dict[str, Any]:
    """Return the run's settings by key, its algorithm's options by their own names."""
    settings: dict[str, Any] = {}
    for key, value in run.learner.items():
        settings |= value if key == OPTIONS else {key: value}
    return settings


def _said(value: Any) -> str:
    """Return the value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
