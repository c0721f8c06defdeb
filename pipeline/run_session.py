"""One process's work on one run: its Trainer, its books, its tracker, and what becomes of them."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.backend import Backend
from pipeline.checkpoint import Checkpoint, CheckpointStore
from pipeline.config import Experiment
from pipeline.copies import AnyCopies
from pipeline.dispatcher import Counters
from pipeline.errors import BadInputError
from pipeline.evaluation import Evaluation
from pipeline.export import write_export
from pipeline.files import TEMPORARY
from pipeline.interrupt import StopRequest
from pipeline.journal import Journals
from pipeline.learners import is_episodic
from pipeline.live_points import LivePoints
from pipeline.live_report import LiveReport
from pipeline.messages import Split
from pipeline.metric_log import read_curve
from pipeline.nested_runs import nested_runs
from pipeline.origin import origin_tags
from pipeline.plot_style import COLOURS
from pipeline.plots import plot_evaluation, plot_meta_training
from pipeline.progress import Progress
from pipeline.protocols import learner_of, protocol_of
from pipeline.redaction import redact
from pipeline.resumable import fixed_values
from pipeline.run_ending import RunEnding
from pipeline.run_log import LoggedProgress, log_evaluation
from pipeline.runs import RunFolder, home
from pipeline.server import Start
from pipeline.system_metrics import SystemMetrics
from pipeline.task_kinds import ENVIRONMENT_KINDS
from pipeline.tasks import task_family
from pipeline.tracking import Tracker, tracking_uri
from pipeline.trainer import Books, Trainer
from pipeline.trajectories import TrajectoryWriter

logger = logging.getLogger(__name__)

OTHER_TEST = re.compile(r"[^\w.=,-]")  # what a folder's name does not take


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What `outerloop train` prints at its end."""

    run_id: str
    run_dir: Path
    mlflow_run_id: str
    outer_steps: int
    inner_steps: int
    wall_s: float
    parameters_sha256: str  # of the flat float32 outer parameters
    evaluation: Evaluation | None
    plot: Path | None
    tracking_uri: str  # without a password
    ended_by: str  # key of what ended meta-training: meta.num_steps or a budget
    notes: tuple[str, ...]  # what to know of how it went, a line each


class RunSession:
    """One process's work on one run: its Trainer, its books and its tracker."""

    def __init__(
        self,
        run: RunFolder,
        experiment: Experiment,
        backend: Backend,
        stop: StopRequest,
        progress: Progress,
        checkpoint: Checkpoint | None,
        copies: AnyCopies,
    ) -> None:
        self._run = run
        self._backend = backend
        self._experiment = experiment
        stop.progress = LoggedProgress(progress, run.log)
        self._family = task_family(experiment, torch.device("cpu"))
        data = self._data_digest("train")
        if checkpoint is not None and checkpoint.meta.get("data", data) != data:
            raise BadInputError(
                f"run {run.run_id}: the data or their split are not what it was trained on; "
                "restore them, or start a new run"
            )
        self._uri = tracking_uri(experiment.tracking.uri, home())
        self._tracker = Tracker(self._uri, experiment.tracking.experiment, run.path, copies.confirm)
        self._books = Books(
            CheckpointStore(run.checkpoints, keep=experiment.checkpoint.keep),
            TrajectoryWriter(run.trajectories),
            Journals(run.in_flight, _test_of(experiment)),
            self._tracker,
            Counters(**checkpoint.meta["counters"]) if checkpoint else Counters(),
            data,
            fixed_values(experiment),
            copies,
            backend.meter(run.run_id),
        )
        self._ending = RunEnding(
            run, self._books.checkpoints, self._tracker, copies, stop, progress
        )
        version = checkpoint.step if checkpoint else 0
        schedule = checkpoint.meta.get("schedule") if checkpoint else None
        log, tracking = self._tracker.log_metrics, experiment.tracking
        self._live = LiveReport(
            self._family.num_steps,
            stop.progress,
            LivePoints(log, tracking.live_every_s, self._tracker.metric_keys),
            SystemMetrics(log, tracking.system_every_s, self._tracker.begun_ms / 1000, run.path),
        )
        self._trainer = Trainer(
            experiment, backend, self._books, stop, stop.progress, version, schedule, self._live
        )
        self._begun = time.monotonic()

    def train(self) -> TrainResult:
        """Meta-train to the end, meta-test, and put all of it on record."""
        with self._ending.of("train --resume"):
            self._describe()
            self._books.copies.offer(self._trainer.version)
            every, last = self._experiment.evaluation.every, self._experiment.meta.num_steps
            first = here = self._trainer.version
            is_due = every and here and (here % every == 0 or here == last)
            if is_due and self._books.checkpoints.newest_validation() < here:
                self._look_in_between(last)  # an interruption came between it and its checkpoint
            while self._trainer.version < last and not self._trainer.spent():
                here = self._trainer.version
                self._trainer.train(min(last, here + every - here % every) if every else last)
                if every:
                    is_over = bool(self._trainer.spent())
                    self._look_in_between(self._trainer.version if is_over else last)
            notes = self._notes(last)
            for note in notes if self._trainer.version > first else ():
                logger.warning("%s", note)
            trained_s = time.monotonic() - self._begun
            taken = {
                "inner_steps": self._trainer.inner_steps_taken,
                "env_steps": self._trainer.env_steps_taken,
            }
            self._trainer.train(last)  # writes the checkpoint of a run of no steps
            evaluation, plot = self._full_meta_test(self._experiment.evaluation.baselines)
            summary = self._summarise(evaluation, _throughput(taken, trained_s))
        return TrainResult(
            run_id=self._run.run_id,
            run_dir=self._run.path,
            mlflow_run_id=self._tracker.mlflow_run_id or "",
            outer_steps=self._trainer.version,
            inner_steps=self._books.counters.inner_steps,
            wall_s=time.monotonic() - self._begun,
            parameters_sha256=summary["parameters_sha256"],
            evaluation=evaluation,
            plot=plot,
            tracking_uri=redact(self._uri),
            ended_by=summary["ended_by"],
            notes=(*notes, *self._ending.notes),
        )

    def _notes(self, last: int) -> tuple[str, ...]:
        """Return a line each: a budget that ended meta-training, outer steps that were in vain."""
        notes = []
        key, here, run_id = self._trainer.spent(), self._trainer.version, self._run.run_id
        if key and here < last:
            budget = self._trainer.budgets()[key]
            notes.append(
                f"ended by {key}={budget.most} after {here} of {last} outer steps; to train on: "
                f"outerloop train --resume {run_id} {key}={budget.more()}"
            )
        counters = self._books.counters
        if counters.unmoved:
            stale = f" ({counters.stale} in the run as too stale)" if counters.stale else ""
            notes.append(
                f"{counters.unmoved} of {here} outer steps moved nothing: all their tasks were "
                f"dropped{stale}; see {self._run.log}"
            )
        return tuple(notes)

    def evaluate(self, baselines: Sequence[str], other_test: str = "") -> tuple[Evaluation, Path]:
        """Meta-test only, and put it on record; `other_test` names one that is not the run's own.

        Another test has a folder of its own, and no part in curves, summary and model.
        """
        with self._ending.of("evaluate"):
            self._describe()  # MLflow may have lost the run
            if other_test:
                return self._other_test(baselines, OTHER_TEST.sub("_", other_test))
            evaluation, plot = self._full_meta_test(baselines)
            self._summarise(evaluation, {})
        return evaluation, plot

    def _other_test(self, baselines: Sequence[str], name: str) -> tuple[Evaluation, Path]:
        self._live.points = None
        evaluation = self._tested(baselines)
        folder = self._run.evaluation / name
        evaluation.to_parquet(folder)
        self._books.journals.remove_tests()
        plot = plot_evaluation(evaluation, self._run.plots / name / "meta-test.png")
        for path in (*sorted(folder.glob("*.parquet")), plot):
            self._tracker.log_artifact(path, f"evaluation/{name}")
        return evaluation, plot

    def _describe(self) -> None:
        """Tell the tracker what run this is, before its first step."""
        data = self._family.dataset
        self._tracker.set_status("RUNNING")
        self._tracker.log_params(self._experiment.model_dump(mode="json"))
        splits: tuple[tuple[Split, str], ...] = (("train", "meta-training"), ("test", "meta-test"))
        self._tracker.set_tags(
            {
                "outerloop.experiment": self._experiment.name,
                "outerloop.algorithm": self._experiment.algorithm.name,
                "outerloop.run_dir": str(self._run.path),
            }
            | {f"outerloop.data.{split}": self._data_digest(split) for split, _ in splits}
            | origin_tags()
        )
        for split, context in splits:
            digest = self._data_digest(split)
            profile = self._family.profile(split)
            name = f"{data.name} {split}"
            self._tracker.log_dataset(name, digest, data.source, context, profile)
        self._tracker.log_artifact(self._run.config)

    def _data_digest(self, split: Split) -> str:
        """Return the SHA-256 of what a split is drawn from: two splits of one data set differ."""
        drawn_from = f"{self._family.dataset.digest} {self._family.profile(split)}"
        return hashlib.sha256(drawn_from.encode()).hexdigest()

    def _look_in_between(self, last: int) -> None:
        """Validate, where there are tasks for that, and mark the best; else meta-test."""
        score = None
        if self._family.num_tasks("val"):
            evaluation = self._meta_test((), "val")
            self._record(evaluation)
            found = _score(evaluation.summary()[evaluation.method])
            score = found if math.isfinite(found) else None
        elif self._trainer.version < last:
            self._record(self._meta_test(()))
        self._books.checkpoints.record_validation(self._trainer.version, score)
        self._books.journals.remove_tests()

    def _meta_test(
        self, baselines: Sequence[str], split: Split = "test", version: int | None = None
    ) -> Evaluation:
        own = self._experiment.algorithm.name
        version = self._trainer.version if version is None else version
        count = self._family.num_tasks(split)
        names = [self._family.task_name(split, i) for i in range(count)]
        profile = self._family.profile(split)
        return Evaluation(
            curves=tuple(self._trainer.meta_test([own, *baselines], count, split, version)),
            protocol=protocol_of(
                self._experiment, names, profile.get("sha256", self._family.dataset.digest), profile
            ),
            method=own,
            run_id=self._run.run_id,
            learner=learner_of(self._experiment, self._trainer.version),
            split=split,
            outer_step=version,
            target_return=self._experiment.evaluation.target_return,
        )

    def _ended_by(self) -> str:
        """Return the key that ended meta-training."""
        at_end = self._trainer.version >= self._experiment.meta.num_steps
        return "meta.num_steps" if at_end else self._trainer.spent()

    def _tested_version(self) -> int:
        """Return which outer step's parameters are meta-tested: the best by validation, if any."""
        best = self._books.checkpoints.best()
        if best is None or not self._family.num_tasks("val"):
            return self._trainer.version
        return best.step

    def _tested(self, baselines: Sequence[str]) -> Evaluation:
        """Meta-test the checkpoint that validation chose, else the last."""
        version = self._tested_version()
        if version != self._trainer.version:
            self._backend.load(Start(self._run.checkpoints, version))
        evaluation = self._meta_test(baselines, version=version)
        log_evaluation(evaluation)
        return evaluation

    def _full_meta_test(self, baselines: Sequence[str]) -> tuple[Evaluation, Path]:
        evaluation = self._tested(baselines)
        self._record(evaluation)
        evaluation.to_parquet(self._run.evaluation)
        self._books.journals.remove_tests()
        plot = plot_evaluation(evaluation, self._run.plots / "meta-test.png")
        self._plot_meta_training()
        for path in sorted(self._run.plots.glob("*.png")):
            self._tracker.log_artifact(path, "plots")
        for path in sorted(self._run.evaluation.glob("*.parquet")):
            self._tracker.log_artifact(path, "evaluation")
        self._tracker.log_nested(nested_runs(evaluation, self._experiment.tracking.nested_runs))
        return evaluation, plot

    def _record(self, evaluation: Evaluation) -> None:
        """Log a meta-test's means as metrics at the present outer step."""
        figures: dict[str, float] = {}
        for method, metrics in evaluation.summary().items():
            own, split = method == evaluation.method, evaluation.split
            split = split if own else f"{split}-{method}"
            figures |= {f"eval/{split}/{name}": row["mean"] for name, row in metrics.items()}
        self._tracker.log_metrics(self._trainer.version, figures)

    def _plot_meta_training(self) -> None:
        names, measured = {"queries of the episodes": "train/loss"}, "training loss"
        if self._experiment.task.kind in ENVIRONMENT_KINDS:
            environments = {
                self._family.task_name("train", i).partition(" #")[0]
                for i in range(self._family.num_tasks("train"))
            }
            names = {name: f"rl/{name}/return" for name in sorted(environments)[: len(COLOURS)]}
            measured = "return while training"
        elif not is_episodic(self._experiment):
            names = {
                "first inner step": "train/loss_first",
                "last inner step": "train/loss_last",
            }
        curves = {label: read_curve(self._run.metrics, name) for label, name in names.items()}
        # A game of which no task was drawn, or ended an episode, has no points.
        known = {label: points for label, points in curves.items() if points}
        if known and (measured != "training loss" or len(known) == len(curves)):
            plot_meta_training(known, self._run.plots / "meta-training.png", measured)

    def _summarise(self, evaluation: Evaluation, throughput: dict[str, float]) -> dict[str, Any]:
        """Write summary.json and hand the model to the tracker."""
        checkpoint = self._books.checkpoints.load(self._trainer.version)
        summary, tested = self._run.read_summary(), self._tested_version()
        methods = evaluation.summary()
        summary |= {
            "final": methods[evaluation.method],
            "baselines": {name: row for name, row in methods.items() if name != evaluation.method},
            "counts": asdict(self._books.counters) | {"outer_steps": checkpoint.step},
            "tested_outer_step": tested,
            "ended_by": self._ended_by(),
            "parameters_sha256": hashlib.sha256(checkpoint.params.tobytes()).hexdigest(),
        }
        if throughput:
            summary["throughput"] = throughput
        self._run.write_summary(summary)
        self._tracker.log_artifact(self._run.summary)
        is_newest = tested == checkpoint.step
        self._log_model(checkpoint if is_newest else self._books.checkpoints.load(tested))
        return summary

    def _log_model(self, checkpoint: Checkpoint) -> None:
        """Hand the model that was tested to the tracker, as `outerloop export` writes it."""
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self._run.path) as temporary:
            folder = Path(temporary) / "model"
            advice = "make room, then resume the run"
            write_export(self._run, self._experiment, checkpoint, folder, advice)
            self._tracker.log_model(
                self._experiment.name,
                checkpoint.step,
                sorted(folder.iterdir()),
                self._experiment.model_dump(mode="json"),
            )


def _throughput(taken: dict[str, int], seconds: float) -> dict[str, float]:
    """Return steps per second and, so that they can be checked, steps and seconds."""
    counts = {name: count for name, count in taken.items() if count}
    if not counts:
        return {}
    rates = {f"{name}_per_s": count / seconds for name, count in counts.items()}
    return {**rates, **counts, "seconds": seconds}


def _test_of(experiment: Experiment) -> str:
    """Return what tells the experiment's meta-test from others of the same parameters."""
    asked = f"{experiment.evaluation.model_dump_json()} {experiment.episodes.model_dump_json()}"
    return hashlib.sha256(asked.encode()).hexdigest()[:8]


def _score(metrics: dict[str, dict[str, Any]]) -> float:
    """Return what a validation is judged by, higher is better: accuracy, else the loss turned."""
    if "accuracy" in metrics:
        return float(metrics["accuracy"]["mean"])
    return -float(metrics["loss"]["mean"])
