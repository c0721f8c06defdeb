"""A machine is lost: all processes of a run are killed, its folder is gone, storage goes away.

The real command on Ray, a real server of the S3 protocol, one MLflow store that outlasts it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipeline.copy_lineage import read_manifests
from pipeline.runs import RunFolder
from pipeline.storage import Storage, below
from pipeline.trajectories import read_trajectories
from pipeline.verify import verify_run
from tests.jobs.test_interruption import OUTERLOOP, TINY, answer, points
from tests.pipeline.storage_for_tests import CREDENTIALS, needs_moto, s3  # noqa: F401
from tests.processes import wait_until

pytestmark = [pytest.mark.ray, needs_moto]
WORDS = [word for word in TINY if not word.startswith("checkpoint.")]
LAST = 12


def command(home: Path, store: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | CREDENTIALS | {"OUTERLOOP_HOME": str(home)}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}"
    executable = [OUTERLOOP] if OUTERLOOP.exists() else [sys.executable, "-m", "jobs.cli"]
    return subprocess.Popen(
        [*executable, "--json", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL the command and all that it started, as when the power goes."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.communicate()


def newest_copy(place: str) -> int:
    with contextlib.suppress(OSError):
        return max((one.step for one in read_manifests(Storage(place))), default=-1)
    return -1


def run_id_in(home: Path) -> str:
    return next(path.name for path in home.glob("quickstart-*"))


def outer_steps(home: Path) -> int:
    with contextlib.suppress(OSError, StopIteration):
        log = home / run_id_in(home) / "tracking" / "metrics.jsonl"
        return log.read_text().count("outer/grad_norm")
    return 0


@pytest.mark.timeout(400)
def test_a_lost_machine_changes_no_bit_of_the_result_and_no_point_of_the_curves(tmp_path, s3):  # noqa: F811
    store = tmp_path / "mlflow.db"
    first, second = tmp_path / "first", tmp_path / "second"
    copy_to = f"checkpoint.copy_to={s3.address}"
    whole = command(tmp_path / "whole", store, "train", "quickstart", "workers.count=0", *WORDS)
    train = ["train", "quickstart", "workers.count=1", "checkpoint.every=2", copy_to, *WORDS]
    broken = command(first, store, *train)
    wait_until(lambda: outer_steps(first) >= 1, timeout_s=120)
    place = below(s3.address, run_id_in(first))
    wait_until(lambda: newest_copy(place) >= 2)
    s3.stop()  # part of the run is without storage; MLflow has steps that no copy has
    before = outer_steps(first)
    wait_until(lambda: outer_steps(first) >= min(before + 3, LAST))
    kill_all(broken)
    s3.go_on()
    shutil.rmtree(first)

    resumed = command(second, store, "train", "--resume", place, "workers.count=2")
    code, theirs = answer(whole)
    assert code == 0
    code, ours = answer(resumed)
    assert code == 0, ours
    assert ours["parameters_sha256"] == theirs["parameters_sha256"]
    assert ours["final"] == theirs["final"]
    assert Path(ours["run_dir"]).parent == second
    rows = read_trajectories(Path(ours["run_dir"]) / "trajectories", ["meta_step"])
    assert pc.unique(rows["meta_step"]).to_pylist() == list(range(LAST))
    assert len(rows) == LAST * 4 * 20
    curves = points(ours["tracking_uri"], ours["mlflow_run_id"])
    undisturbed = points(theirs["tracking_uri"], theirs["mlflow_run_id"])
    assert [step for step, _ in curves["train/loss"]] == list(range(1, LAST + 1))
    for key in ("train/loss", "outer/grad_norm", "eval/test/auc"):
        assert curves[key] == undisturbed[key], key
    for key, curve in curves.items():
        assert len({step for step, _ in curve}) == len(curve), key
    verdict = verify_run(RunFolder(Path(ours["run_dir"])))
    assert (verdict.report.problems, verdict.state) == ([], "finished")
    assert verdict.report.checked["mlflow_waiting"] == 0
    assert newest_copy(place) == LAST
    log = (Path(ours["run_dir"]) / "log.txt").read_text()
    assert len(re.findall("INFO command:", log)) == 2
