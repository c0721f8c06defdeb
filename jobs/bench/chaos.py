"""Chaos: runs under random faults, which must end as if there had been none.

A small Leap run is done once undisturbed, and then again and again while real processes are killed
and stopped, the disk fills up and checkpoints are damaged, until so many faults have struck. After
each run its parameters are compared bitwise, its folder is verified, and the points in MLflow are
counted.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs import catalog
from jobs.bench.chaos_processes import Nodes, Server
from jobs.bench.chaos_run import TASK_TIMEOUT_S, ChaosRun, Outcome
from jobs.bench.ground import Ground, clear_dead_grounds
from jobs.bench.trainers import asked_to_stop, check_workers_here
from jobs.bench.words import overridden
from pipeline.errors import BadInputError
from pipeline.mlflow_run import MlflowReader

FAULTS_A_RUN = 12
MEAN_WAIT_S = 4.0
CURVES = ("train/loss", "outer/grad_norm", "outer/step_norm")
WORDS = (
    "quickstart",
    "data.num_train_tasks=8",
    "data.num_test_tasks=2",
    "task.num_ways=5",
    "task.batch_size=4",
    "model.num_filters=8",
    "inner.num_steps=200",
    "inner.segment_steps=25",
    "inner.checkpoint_every=50",
    "meta.batch_size=4",
    "meta.num_steps=20",
    "outer.optimizer=adam",
    "outer.lr=0.01",
    "checkpoint.every=2",
    "workers.count=2",
    # So often does bad luck strike the same task here, which says nothing against it.
    "workers.max_retries=100",
    f"workers.task_timeout_s={TASK_TIMEOUT_S:g}",
    "aggregator.shards=2",
    "evaluation.num_steps=50",
)


def run(
    faults: int = 100,
    seed: int = 0,
    nodes: int = 1,
    console: Console | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Put runs through chaos until `faults` have struck.

    Args:
        faults: How many.
        seed: Of when and what.
        nodes: 1, or 2 for a cluster of two nodes on this machine, of which one is killed too.
        console: Is told how it goes.
        overrides: `key=value` changes to the run.

    Raises:
        BadInputError: An override is wrong, or leaves no workers on this machine; before anything
            is started.
    """
    words = overridden(WORDS, overrides)
    experiment = catalog.load(words[0], words[1:])
    check_workers_here("bench chaos", experiment)
    if experiment.meta.num_steps == 0:
        raise BadInputError(
            "meta.num_steps=0: a run that is over at once meets no fault; give more"
        )
    clear_dead_grounds()
    with asked_to_stop(console) as stop, Ground() as ground:
        stop.clean_up = ground.clear
        return _Chaos(ground, nodes, seed, words, experiment.meta.num_steps, console).run(faults)


class _Chaos:
    def __init__(
        self,
        ground: Ground,
        nodes: int,
        seed: int,
        words: list[str],
        outer_steps: int,
        console: Console | None,
    ) -> None:
        self._folder = ground.folder
        self._disk = ground.disk
        self._is_small = ground.is_small
        self._mark = ground.mark
        self._seed = seed
        self._console = console
        self._num_nodes = nodes
        self._words = words
        self._outer_steps = outer_steps
        self._outcomes: list[Outcome] = []
        self._equal: list[bool] = []
        self._problems: list[str] = []
        self._duplicates = self._missing = self._retries = 0

    def run(self, faults: int) -> dict[str, Any]:
        with (
            Server(self._folder / "server", self._mark) as self._server,
            self._cluster() as self._nodes,
        ):
            places = [f"tracking.uri={self._server.address}"]
            if self._nodes:
                places.append(f"workers.address={self._nodes.address}")
            self._words = overridden(self._words, places)
            quiet = self._run(0, 0)
            struck = 0
            while struck < faults:
                outcome = self._run(len(self._outcomes) + 1, min(FAULTS_A_RUN, faults - struck))
                self._outcomes.append(outcome)
                self._equal.append(_same(outcome, quiet))
                struck += outcome.faults.total()
                self._tell(f"{struck}/{faults} faults, {sum(self._equal)} of "
                           f"{len(self._equal)} runs bitwise as undisturbed")  # fmt: skip
        return self._report(quiet)

    def _cluster(self) -> AbstractContextManager[Nodes | None]:
        if self._num_nodes == 1:
            return nullcontext()
        return Nodes(self._folder / "nodes", max(2, os.cpu_count() or 2), mark=self._mark)

    def _run(self, number: int, max_faults: int) -> Outcome:
        home = self._disk / f"home-{number:03d}"
        home.mkdir()
        log, seed = self._folder / f"{home.name}.log", self._seed * 1000 + number
        chaos = ChaosRun(self._words, home, log, self._server, self._nodes, seed, self._mark)
        outcome = chaos.run(max_faults, self._kinds(chaos), MEAN_WAIT_S)
        self._check(home, outcome)
        return outcome

    def _kinds(self, chaos: ChaosRun) -> list[str]:
        """Return what can happen here: a disk that is not ours alone is not filled."""
        left_out = {"disk_full"} if not self._is_small else set()
        left_out |= {"node_killed"} if not self._nodes else set()
        return [kind for kind in chaos.faults() if kind not in left_out]

    def _is_well(self) -> bool:
        """Whether nothing was lost, nothing was there twice, and all came out the same."""
        lost = self._duplicates or self._missing or sum(one.orphans for one in self._outcomes)
        return all(self._equal) and not self._problems and not lost

    def _check(self, home: Path, outcome: Outcome) -> None:
        """Verify the run, count its points in MLflow, and make room for the next."""
        found = self._verified(home, str(outcome.said["run_id"]))
        self._problems += found
        stored = MlflowReader(self._server.address, str(outcome.said["mlflow_run_id"]))
        for key in CURVES:
            steps = Counter(point.step for point in stored.points(key))
            self._duplicates += sum(count - 1 for count in steps.values())
            missing = sorted(set(range(1, self._outer_steps + 1)) - set(steps))
            self._missing += len(missing)
            if missing:
                self._problems.append(f"{home}: {key} is not in MLflow at outer steps {missing}")
        self._retries += _retries(outcome)
        if not found:
            shutil.rmtree(home, ignore_errors=True)

    def _verified(self, home: Path, run_id: str) -> list[str]:
        """Return the problems that `outerloop verify` names, and what MLflow did not show it."""
        command = [sys.executable, "-m", "jobs.cli", "--json", "verify", run_id]
        environment = os.environ | self._mark | {"OUTERLOOP_HOME": str(home)}
        done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False,
                start_new_session=True,
            )  # fmt: skip
        lines = done.stdout.strip().splitlines() or [json.dumps({"error": done.stderr[-300:]})]
        said: dict[str, Any] = json.loads(lines[-1])
        # The rest that it never checks, pictures say, is as it should be.
        unseen = [line for line in said.get("not_checked", []) if "MLflow" in line]
        return [*said.get("problems", [said.get("error")]), *unseen]

    def _tell(self, text: str) -> None:
        if self._console:
            self._console.print(text, soft_wrap=True, highlight=False)

    def _report(self, quiet: Outcome) -> dict[str, Any]:
        faults: Counter[str] = sum((one.faults for one in self._outcomes), Counter())
        lost = [(one.wall_s - quiet.wall_s) / max(1, one.faults.total()) for one in self._outcomes]
        return {
            "runs": len(self._outcomes),
            "faults": dict(sorted(faults.items())),
            "num_faults": faults.total(),
            "bitwise_equal": all(self._equal),
            "verify_ok": not self._problems,
            "problems": self._problems[:20],
            "duplicate_points": self._duplicates,
            "missing_points": self._missing,
            "orphans": sum(one.orphans for one in self._outcomes),
            "stops": sum(len(one.stops) for one in self._outcomes),
            "retries": self._retries,
            "disk_can_be_filled": self._is_small,
            "undisturbed_s": quiet.wall_s,
            "lost_s_per_fault": statistics.median(lost) if lost else 0.0,
            "exit_code": 0 if self._is_well() else 1,
        }


def _same(one: Outcome, other: Outcome) -> bool:
    return all(one.said[key] == other.said[key] for key in ("parameters_sha256", "final"))


def _retries(outcome: Outcome) -> int:
    summary = json.loads((Path(str(outcome.said["run_dir"])) / "summary.json").read_bytes())
    return int(summary["counts"]["retries"])
