"""The meta-test's result: learning curves on held-out tasks, and what they come to.

A method (a learned initialisation or a baseline) adapts to each held-out task, once or several
times; each adaptation is a `TaskCurve`. All methods of an `Evaluation` saw the same tasks,
minibatches and number of steps, which its `protocol` spells out.

Shape letter: K inner steps of adaptation.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from algorithms.scoring import (
    area_under_curve,
    area_under_returns,
    confidence_interval_95,
    env_steps_to_target,
    last_known,
)
from pipeline.errors import BadInputError
from pipeline.files import sha256_file, write_atomic
from pipeline.runs import json_text
from pipeline.task_figures import judged_by, task_figures
from pipeline.task_kinds import ENVIRONMENT_KINDS

CURVES, SUMMARY, TASKS = "curves.parquet", "summary.parquet", "tasks.parquet"
CHECKSUMS = "SHA256SUMS"
METADATA = b"outerloop"  # key of the Parquet metadata that holds all but the curves

CURVES_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("task", pa.string()),
        ("repeat", pa.int32()),
        ("seed", pa.int64()),
        ("losses", pa.list_(pa.float32())),
        ("errors", pa.list_(pa.float32())),
        ("returns", pa.list_(pa.float32())),
        ("env_steps", pa.list_(pa.int64())),
        ("metrics", pa.map_(pa.string(), pa.float64())),
    ]
)

WORST = {"accuracy": 0.0, "error": 1.0}

Summary = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class TaskCurve:
    """One adaptation to one held-out task."""

    method: str
    task: str
    repeat: int  # from 0
    losses: npt.NDArray[np.float32]  # [K], of each step's minibatch; [0] where no step is watched
    errors: npt.NDArray[np.float32]  # [K], share of that minibatch misclassified
    metrics: dict[str, float]  # on the task's held-out data after the last step: accuracy, loss
    seed: int = 0  # of the run; `compare` fills it in where runs of several seeds meet
    # Of reinforcement learning, else [0]: mean return of the episodes that ended in each step, NaN
    # if none did; and env steps taken up to its end.
    returns: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))  # [K]
    env_steps: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # [K]

    def __post_init__(self) -> None:
        assert self.losses.shape == self.errors.shape
        assert self.returns.shape == self.env_steps.shape
        assert self.losses.ndim == self.returns.ndim == 1

    def figures(self, target_return: float | None = None) -> dict[str, float]:
        """Return its metrics, and `auc` where there is a curve.

        The mean training error over the steps; of reinforcement learning the mean return over env
        steps, NaN if the adaptation diverged. With `target_return` also `env_steps_to_target`
        (all of them if it never got there, or diverged) and `reached`, 1 or 0.
        """
        if self.returns.size:
            area = area_under_returns(self.env_steps, self.return_curve())
            return {"auc": area, **self._to_target(target_return), **self.metrics}
        areas = {"auc": area_under_curve(self.errors)} if self.errors.size else {}
        return {**areas, **self.metrics}

    def _to_target(self, target_return: float | None) -> dict[str, float]:
        if target_return is None:
            return {}
        diverged = not np.isfinite(self.losses).all()
        returns = np.full_like(self.returns, math.nan) if diverged else self.returns
        env_steps, reached = env_steps_to_target(self.env_steps, returns, target_return)
        return {"env_steps_to_target": env_steps, "reached": float(reached)}

    def return_curve(self) -> npt.NDArray[np.float64]:
        """Return the latest return at each step: [K]; NaN throughout if the adaptation diverged.

        Steps before the first end of an episode get the first return there is, be it that of the
        episodes played after the adaptation.
        """
        if not np.isfinite(self.losses).all():
            return np.full(self.returns.shape, math.nan)
        return last_known(self.returns, otherwise=self.metrics.get("return", math.nan))

    def judged(self) -> TaskCurve:
        """Return the curve as it counts: where the adaptation diverged, as wrong from there on.

        A network whose numbers are no longer finite classifies nothing, but its argmax is still
        an index, right as often as chance. So from the first loss on that is not finite, the
        held-out one included, the error is 1 and the loss NaN; in the end the accuracy is 0, and
        what has no worst value is NaN.
        """
        finite = np.isfinite(self.losses)
        if finite.all() and math.isfinite(self.metrics.get("loss", 0.0)):
            return self
        diverged = np.logical_or.accumulate(~finite)  # and never comes back
        return replace(
            self,
            losses=np.where(diverged, np.float32(np.nan), self.losses),
            errors=np.where(diverged, np.float32(1), self.errors),
            metrics={name: WORST.get(name, math.nan) for name in self.metrics},
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The meta-test of a run, or of several that are compared."""

    curves: tuple[TaskCurve, ...]  # as they were measured
    protocol: dict[str, Any]  # what all methods shared, by key of the configuration
    method: str = ""  # which of the methods is the run's own; the others are baselines
    run_id: str = ""
    learner: dict[str, Any] = field(default_factory=dict)  # how `method` was meta-trained
    split: str = "test"  # or val
    outer_step: int = -1  # whose parameters were tested, where validation may choose an earlier one
    target_return: float | None = None  # how far a return curve is to get, in environments

    @property
    def seed(self) -> int:
        """The seed of the run; a comparison has several."""
        return int(self.protocol["seed"])

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order in which they first appear."""
        return tuple(dict.fromkeys(curve.method for curve in self.curves))

    def of_method(self, method: str) -> list[TaskCurve]:
        """Return the curves of `method` as they count."""
        return [curve.judged() for curve in self.curves if curve.method == method]

    @cached_property
    def _summary(self) -> Summary:
        return {
            method: _summarise(self.of_method(method), self.target_return)
            for method in self.methods
        }

    def summary(self) -> Summary:
        """Return {method: {metric: {mean, ci95, tasks, seeds}}}.

        Metrics are `auc` (see `TaskCurve.figures`) and the held-out ones, of them those
        that all of a method's curves have; an adaptation that diverged has no loss, so that the
        mean loss is NaN (null in JSON) and the other metrics count it as wrong. A method in whose
        adaptations no episode ended has no figures of the target return. Repeats of a task
        are averaged first. The 95 % interval, mean ± ci95, is over tasks; with several seeds it is
        over (task, seed) pairs, which are taken for independent although a task under two seeds
        is still the same task. Of several seeds `ci95_seeds` is over the seeds' own means.
        """
        return self._summary

    def to_parquet(self, folder: Path) -> None:
        """Write curves.parquet (a row per adaptation) and summary.parquet to `folder`.

        In environments tasks.parquet too: a row per task, method and metric. SHA256SUMS, which
        comes last, vouches for them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        summary = [
            {"method": method, "metric": metric, **values}
            for method, metrics in self.summary().items()
            for metric, values in metrics.items()
        ]
        _write_table(pa.Table.from_pylist(summary), folder / SUMMARY)
        if self.protocol.get("task.kind") in ENVIRONMENT_KINDS:
            by_task = [asdict(one) for one in task_figures(self)]
            _write_table(pa.Table.from_pylist(by_task), folder / TASKS)
        curves = [
            {name: getattr(curve, name) for name in CURVES_SCHEMA.names}
            | {"metrics": list(curve.metrics.items())}
            for curve in self.curves
        ]
        rest = {
            key: getattr(self, key)
            for key in (
                "protocol", "method", "run_id", "learner", "split", "outer_step", "target_return"
            )
        }  # fmt: skip
        schema = CURVES_SCHEMA.with_metadata({METADATA: json_text(rest).encode()})
        _write_table(pa.Table.from_pylist(curves, schema=schema), folder / CURVES)
        _write_checksums(folder)

    @classmethod
    def from_parquet(cls, folder: Path) -> Evaluation:
        """Read what `to_parquet` wrote; BadInputError if it is not there or damaged."""
        path = folder / CURVES
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            # Not cast to it: of a schema that lies, that makes Arrow end the process.
            if not table.schema.equals(CURVES_SCHEMA):
                raise ValueError("it has other columns")
            table.validate(full=True)
            rest = json.loads((table.schema.metadata or {})[METADATA])
            rows = table.to_pylist()
            return cls(tuple(_curve(row) for row in rows), **rest)
        except FileNotFoundError:
            raise BadInputError(
                f"{path}: there is no meta-test yet; run `outerloop evaluate {folder.parent.name}`"
            ) from None
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise BadInputError(
                f"{path}: is no meta-test ({' '.join(str(error).split())[:120]}); "
                f"run `outerloop evaluate {folder.parent.name}` again"
            ) from None


def per_task(curves: Iterable[TaskCurve]) -> dict[tuple[str, int], list[TaskCurve]]:
    """Return the curves by (task, seed): the repeats that are averaged before anything else."""
    groups: dict[tuple[str, int], list[TaskCurve]] = defaultdict(list)
    for curve in curves:
        groups[curve.task, curve.seed].append(curve)
    return dict(groups)


def _summarise(curves: list[TaskCurve], target_return: float | None) -> dict[str, dict[str, Any]]:
    groups = per_task(curves)
    counts = {
        "tasks": len({task for task, _ in groups}),
        "seeds": len({seed for _, seed in groups}),
    }
    target = judged_by(curves, target_return)
    figures = [[curve.figures(target) for curve in repeats] for repeats in groups.values()]
    shared = set.intersection(*(set(one) for repeats in figures for one in repeats))
    summary = {}
    for metric in sorted(shared, key=lambda name: (name != "auc", name)):
        values = [math.fsum(one[metric] for one in repeats) / len(repeats) for repeats in figures]
        mean, half_width = confidence_interval_95(values)
        summary[metric] = {"mean": float(mean), "ci95": float(half_width), **counts}
        if counts["seeds"] > 1:
            summary[metric]["ci95_seeds"] = _interval_over_seeds(groups, values)
    return summary


def _interval_over_seeds(pairs: Iterable[tuple[str, int]], values: Iterable[float]) -> float:
    """Return the half width of the interval over the means of each seed's tasks."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for (_, seed), value in zip(pairs, values, strict=True):
        by_seed[seed].append(value)
    means = [math.fsum(of_one) / len(of_one) for of_one in by_seed.values()]
    return confidence_interval_95(means)[1]


def _curve(row: dict[str, Any]) -> TaskCurve:
    kinds = {
        "losses": np.float32,
        "errors": np.float32,
        "returns": np.float32,
        "env_steps": np.int64,
    }
    arrays = {name: np.asarray(row[name], kind) for name, kind in kinds.items()}
    return TaskCurve(**(row | arrays | {"metrics": dict(row["metrics"])}))


def _write_table(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    write_atomic(path, sink.getvalue().to_pybytes())


def _write_checksums(folder: Path) -> None:
    """Write the SHA-256 of each table in `folder`, as the command `sha256sum` does."""
    tables = (path for path in sorted(folder.glob("*.parquet")) if path.is_file())
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in tables]
    write_atomic(folder / CHECKSUMS, "".join(lines).encode())
