"""summary.json against the run's meta-test, from whose curves its figures follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation import CURVES, Evaluation
from pipeline.verify.alike import same, without_target
from pipeline.verify.report import Report
from pipeline.verify.subject import Subject


@dataclass(frozen=True, slots=True)
class Figures:
    """Compares figures on record with those that follow from the curves of a meta-test."""

    name: str  # of the folder of the meta-test
    is_older: bool  # it was written by a version that knew no checksums
    report: Report

    def agree(self, found: Any, expected: Any) -> bool:
        """Whether they are alike; of an older version those of a target return need not be."""
        if same(found, expected):
            return True
        if not (self.is_older and same(without_target(found), without_target(expected))):
            return False
        line = (
            f"{self.name}: was written by an older version, which took env_steps_to_target "
            "otherwise: figures of the target return are not compared"
        )
        if line not in self.report.notes:
            self.report.note(line)
        return True


def result_problems(
    subject: Subject, summary: dict[str, Any], evaluation: Evaluation, figures: Figures
) -> Iterator[str]:
    """Yield what summary.json says otherwise than the meta-test of a run that is finished."""
    methods = evaluation.summary()
    own, where = evaluation.method, f"{figures.name}/{CURVES}"
    if own not in methods:
        yield f"{where}: has no curve of the run's own method"
        return
    if not figures.agree(summary.get("final"), methods[own]):
        yield f"summary.json: final is not what follows from {where}"
    baselines = {name: row for name, row in methods.items() if name != own}
    said = summary.get("baselines")
    if isinstance(said, dict) and said.keys() != baselines.keys() and _is_before_test(subject):
        figures.report.note(f"summary.json: is of before the meta-test in {figures.name}")
    elif not isinstance(said, dict) or not figures.agree(said, baselines):
        yield f"summary.json: baselines is not what follows from {where}"
    tested, of_curves = summary.get("tested_outer_step"), evaluation.outer_step
    if tested is not None and of_curves >= 0 and tested != of_curves:
        yield f"summary.json: tested_outer_step is {tested!r:.40}, and {of_curves} in {where}"


def _is_before_test(subject: Subject) -> bool:
    """Whether the summary is older: a meta-test with other baselines died before it wrote one."""
    written = (subject.run.evaluation / CURVES).stat().st_mtime_ns
    return subject.run.summary.stat().st_mtime_ns < written
