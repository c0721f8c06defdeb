"""The curves of training, computed again from trajectories: `train/…`, `rl/…`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.task_record import TaskRecord, outer_figures, returns_by_environment
from pipeline.tracking import metric_name
from pipeline.verify.curves import Curve
from pipeline.verify.log import ALWAYS, CLOSE, NAME
from pipeline.verify.report import MAX_NAMED, Report, ranges
from pipeline.verify.subject import Subject

COMPUTED = "train/"  # of the figures of an outer step, those that rows alone say
RETURNS = "rl/"
TINY = 1e-12  # what is as good as 0
CLOCK_MS = 2000  # by which the clocks of a disk and its user may differ


class LoggedFigures:
    """Compares what was logged of outer steps with their rows.

    An outer step that was taken again after a crash keeps the point of the first time. Where it
    may have come out otherwise it is told apart by its partition, which is newer than its point.
    """

    def __init__(self, subject: Subject, curves: Mapping[str, Curve]) -> None:
        self._subject = subject
        self._curves = {k: v for k, v in curves.items() if k.startswith((COMPUTED, RETURNS))}
        self._always = [curves.get(key, Curve()) for key in ALWAYS]
        self._differing: dict[str, dict[int, str]] = defaultdict(dict)  # by key and outer step
        self._again: set[int] = set()
        self.num_compared = 0

    def compare(self, step: int, records: Sequence[TaskRecord], partition: Path) -> None:
        """Compare the points of outer step `step`, counted from 1, with its tasks' rows.

        A step of which there is no point at all is told of with the log.
        """
        logged = [point for curve in self._always if (point := curve.at(step))]
        if not logged:
            return
        time_ms = logged[0][1]
        figures = {k: v for k, v in outer_figures(records, ()).items() if k.startswith(COMPUTED)}
        figures |= returns_by_environment(records)
        expected = {metric_name(key): value for key, value in figures.items()}
        for key in sorted(expected.keys() | self._curves.keys()):
            value, _ = self._curves.get(key, Curve()).at(step) or (None, 0)
            computed = expected.get(key, math.nan)
            if value is None and not math.isfinite(computed):
                continue
            self.num_compared += 1
            if value is not None and math.isclose(value, computed, rel_tol=CLOSE, abs_tol=TINY):
                continue
            if self._subject.may_differ_when_repeated and _is_newer(partition, time_ms):
                self._again.add(step)
            else:
                self._differing[key][step] = f"{step} ({_word(value)}, by its rows {computed:.9g})"

    def problems(self, num_hidden: int, report: Report) -> Iterator[str]:
        """Yield a line for each metric that differs.

        `num_hidden` tasks were dropped although their rows do not show it, an outer gradient that
        was not finite for example; the points of as many outer steps cannot be computed again.
        """
        steps = sorted({step for differing in self._differing.values() for step in differing})
        if self._again:
            report.note(
                f"{NAME}: outer steps {ranges(sorted(self._again))} were taken again after a crash "
                "and came out otherwise; their points are of the first time"
            )
        if 0 < len(steps) <= num_hidden:
            report.skip(
                f"{NAME} against the rows of outer steps {ranges(steps)}: tasks were left out of "
                "them for a reason that rows do not show"
            )
            return
        left = dict(
            sorted(self._differing.items(), key=lambda one: (-len(one[1]), *_place(one[0])))
        )
        while left:
            key, differing = next(iter(left.items()))
            also = [other for other, of in left.items() if of.keys() <= differing.keys()]
            left = {other: of for other, of in left.items() if other not in also}
            named = ", ".join(list(differing.values())[:MAX_NAMED])
            more = f" and {len(differing) - MAX_NAMED} more" if len(differing) > MAX_NAMED else ""
            yield (
                f"{NAME}: {key} differs from the trajectories at outer step {named}{more}"
                f"{_so_do(also[1:])}"
            )


def _place(key: str) -> tuple[bool, str]:
    return key != "train/loss", key  # the one that everybody knows goes first


def _so_do(others: Sequence[str]) -> str:
    """Return the other metrics that differ at the same outer steps, in words."""
    if not others:
        return ""
    more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
    return f"; so {'does' if len(others) == 1 else 'do'} {', '.join(others[:MAX_NAMED])}{more}"


def _is_newer(partition: Path, time_ms: int) -> bool:
    return partition.stat().st_mtime * 1000 > time_ms + CLOCK_MS


def _word(value: float | None) -> str:
    return "no point" if value is None else f"logged {value:.9g}"
