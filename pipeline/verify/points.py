"""Points of one metric: those of the log against those that MLflow has."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.verify.curves import Curve

Point = tuple[int, float, int]  # step, value, time


@dataclass(frozen=True, slots=True)
class Before:
    """What MLflow had of a run when it was fetched from a copy.

    Outer steps after the copy were taken again since, and have other time stamps (and, of a run
    that is not bitwise the same, other values): MLflow keeps the points of the first time.
    """

    was_fetched: bool = False
    steps: Mapping[str, int] = field(default_factory=dict)  # the newest of each metric
    is_known: bool = True  # False: MLflow has not answered since

    def newest(self, key: str) -> float:
        """Return the newest step that MLflow had of a metric."""
        return self.steps.get(key, -math.inf) if self.is_known else math.inf


@dataclass(frozen=True, slots=True)
class Differences:
    """Where MLflow's points of a metric are not the log's: steps, but for `waiting`."""

    missing: set[int]  # sent, and not there
    twice: set[int]  # there with several points
    other: set[int]  # of points that are there and not in the log
    before: set[int]  # there of before the run was fetched, and not in the log
    lost: float | None  # the newest that was there before the run was fetched, and is not now
    waiting: int  # points that are still to be sent


def differences(ours: Curve, theirs: Curve, before: float, is_needed: bool) -> Differences:
    """Compare the log's points of a metric with MLflow's.

    Up to step `before` only steps count, and those that the log alone has only if `is_needed`.
    """
    there, all_ours = theirs.points(), ours.points()
    steps_there, our_steps = {step for step, _, _ in there}, set(ours.steps)
    sent = ours.points(0, ours.num_delivered)

    def is_absent(point: Point) -> bool:
        if point[0] <= before:
            return is_needed and point[0] not in steps_there
        return point not in there

    only_there = there - all_ours
    return Differences(
        missing={point[0] for point in sent if is_absent(point)},
        twice=_twice(there),
        other={step for step, _, _ in only_there if step > before},
        before={step for step, _, _ in only_there if step <= before} - our_steps,
        lost=before if max(steps_there, default=-math.inf) < before < math.inf else None,
        waiting=sum(map(is_absent, all_ours - sent)),
    )


def _twice(points: set[Point]) -> set[int]:
    counts = Counter(step for step, _, _ in points)
    return {step for step, count in counts.items() if count > 1}
