"""SIGTERM and SIGHUP at the real command over real Ray: a checkpoint, exit 130, and a resume that
changes no bit of the result and no point of the curves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from tests.processes import wait_until

pytestmark = pytest.mark.ray
OUTERLOOP = Path(sys.executable).with_name("outerloop")
TINY = [
    "data.num_train_tasks=4",
    "data.num_test_tasks=2",
    "task.num_ways=5",
    "model.num_filters=8",
    "inner.num_steps=20",
    "inner.segment_steps=5",
    "meta.batch_size=4",
    "meta.num_steps=12",
    "checkpoint.every=100",
    "evaluation.num_steps=5",
]


def but(change: str) -> list[str]:
    """Return TINY with another value for one of its keys."""
    key = change.partition("=")[0]
    return [word for word in TINY if word.partition("=")[0] != key] + [change]


def command(
    home: Path, *words: str, before: Callable[[], object] | None = None
) -> subprocess.Popen[str]:
    environment = os.environ | {"OUTERLOOP_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [OUTERLOOP, "--json", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def answer(process: subprocess.Popen[str]) -> tuple[int, dict]:
    output, errors = process.communicate(timeout=240)
    assert "Traceback" not in errors, errors
    return process.returncode, json.loads(output.strip().splitlines()[-1])


def wait_for_outer_step(home: Path, process: subprocess.Popen[str]) -> Path:
    """Return the run's folder once its first outer step is on record."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for log in home.glob("*/tracking/metrics.jsonl"):
            if b"outer/grad_norm" in log.read_bytes():
                return log.parent.parent
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def points(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    run = client.get_run(run_id)
    return {
        key: [(point.step, point.value) for point in client.get_metric_history(run_id, key)]
        for key in run.data.metrics
    }


def wait_for_child(parent: subprocess.Popen[str], name: str) -> int:
    """Return the process id of the child of `parent` of that name, once it is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and parent.poll() is None:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                identity, _, rest = stat.read_text().rpartition(")")
                if name in identity and rest.split()[1] == str(parent.pid):
                    return int(stat.parent.name)
        time.sleep(0.02)
    raise AssertionError(parent.communicate())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sigterm_while_ray_starts_is_one_line_and_leaves_no_run(tmp_path):
    process = command(tmp_path, "train", "quickstart", "workers.count=1", *TINY)
    wait_for_child(process, "gcs_server")
    process.send_signal(signal.SIGTERM)
    code, said = answer(process)
    line = "interrupted by SIGTERM before the run began"
    assert (code, said) == (130, {"error": line, "exit_code": 130})
    assert list(tmp_path.iterdir()) == []


def test_sigterm_then_resume_gives_the_undisturbed_result_and_curves(tmp_path):
    whole = command(tmp_path / "whole", "train", "quickstart", "workers.count=0", *TINY)
    broken = command(tmp_path / "broken", "train", "quickstart", "workers.count=1", *TINY)
    folder = wait_for_outer_step(tmp_path / "broken", broken)
    broken.send_signal(signal.SIGTERM)
    code, said = answer(broken)
    assert (code, said["exit_code"]) == (130, 130)
    assert "SIGTERM" in said["error"]
    assert f"outerloop train --resume {folder.name}" in said["error"]
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert 0 < int(checkpoint.name.removeprefix("step-")) < 12

    resumed = command(tmp_path / "broken", "train", "--resume", folder.name, "workers.count=2")
    code, ours = answer(resumed)
    assert code == 0
    code, theirs = answer(whole)
    assert code == 0
    assert ours["parameters_sha256"] == theirs["parameters_sha256"]
    assert ours["inner_steps"] == theirs["inner_steps"] == 12 * 4 * 20
    assert ours["final"] == theirs["final"]

    curves = points(ours["tracking_uri"], ours["mlflow_run_id"])
    undisturbed = points(theirs["tracking_uri"], theirs["mlflow_run_id"])
    assert [step for step, _ in curves["train/loss"]] == list(range(1, 13))
    for key in ("train/loss", "outer/grad_norm", "eval/test/auc"):
        assert curves[key] == undisturbed[key], key


@contextlib.contextmanager
def on_a_terminal(home: Path, *words: str):
    """Give the command on a terminal of its own, and what closes that."""
    ours, theirs = pty.openpty()

    def take_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [OUTERLOOP, *words],
        env=os.environ | {"OUTERLOOP_HOME": str(home)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()


def test_a_terminal_that_is_closed_stops_the_run_with_a_checkpoint(tmp_path):
    words = ("train", "quickstart", "workers.count=1", *but("meta.num_steps=100000"))
    with on_a_terminal(tmp_path, *words) as (process, terminal):
        said = b""
        while b"1/100000" not in said:
            said += os.read(terminal, 1 << 16)
        os.close(terminal)
        os.killpg(process.pid, signal.SIGHUP)  # a shell tells all of it, Ray's processes too
        assert process.wait(timeout=120) == 130
    (log,) = tmp_path.glob("*/log.txt")
    *_, last = log.read_text().splitlines()
    assert "INFO ended: interrupted by SIGHUP; checkpoint at outer step " in last
    assert last.endswith(f"; go on with: outerloop train --resume {log.parent.name}")


def test_a_request_to_stop_that_ends_ray_too_is_told_as_that(tmp_path):
    """As by `timeout`, which ends the whole group of processes."""
    words = ("train", "quickstart", "workers.count=1", *but("meta.num_steps=100000"))
    process = command(tmp_path, *words, before=os.setsid)
    wait_for_outer_step(tmp_path, process)
    os.killpg(process.pid, signal.SIGTERM)
    code, said = answer(process)
    assert code == 130
    assert said["error"].startswith("interrupted by SIGTERM")
    assert "; go on with: outerloop train --resume " in said["error"]


def test_under_nohup_a_closed_terminal_changes_nothing(tmp_path):
    process = command(
        tmp_path, "train", "quickstart", "workers.count=0", *TINY,
        before=partial(signal.signal, signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    wait_for_outer_step(tmp_path, process)
    process.send_signal(signal.SIGHUP)
    code, said = answer(process)
    assert (code, said["outer_steps"]) == (0, 12)


@pytest.fixture
def silent_server():
    """Address of an MLflow that takes every connection and never answers: ends wait for it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def wait_for_line(stream: Iterable[str], text: str) -> None:
    assert any(text in line for line in stream)


def test_a_second_sigint_ends_at_once_and_says_how_to_go_on(tmp_path, silent_server):
    uri = f"tracking.uri={silent_server}"
    process = command(
        tmp_path, "train", "quickstart", "workers.count=1", *but("checkpoint.every=1"), uri
    )
    folder = wait_for_outer_step(tmp_path, process)
    wait_until(lambda: any(folder.glob("checkpoints/step-*")))
    process.send_signal(signal.SIGINT)
    wait_for_line(process.stderr, "SIGINT: stopping with a checkpoint; Ctrl-C again ends at once")
    process.send_signal(signal.SIGINT)
    code, said = answer(process)
    assert (code, said["exit_code"]) == (130, 130)
    assert "interrupted twice by SIGINT" in said["error"]
    assert f"outerloop train --resume {folder.name}" in said["error"]
    assert "checkpoint at outer step" in said["error"]
    assert (folder / "log.txt").read_text().endswith(f"INFO ended: {said['error']}\n")


def test_a_sigint_once_the_run_is_complete_ends_the_wait_for_mlflow_alone(tmp_path, silent_server):
    uri = f"tracking.uri={silent_server}"
    process = command(
        tmp_path, "train", "quickstart", "workers.count=0", *but("meta.num_steps=1"), uri
    )
    wait_until(lambda: any("ended well" in log.read_text() for log in tmp_path.glob("*/log.txt")))
    process.send_signal(signal.SIGINT)
    wait_for_line(process.stderr, "SIGINT: MLflow is not waited for any longer")
    code, said = answer(process)
    assert (code, said["outer_steps"]) == (0, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_dead_raylet_ends_the_run_at_once_and_says_how_to_go_on(tmp_path):
    process = command(tmp_path, "train", "quickstart", "workers.count=1", *TINY)
    folder = wait_for_outer_step(tmp_path, process)
    os.kill(wait_for_child(process, "raylet"), signal.SIGKILL)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "\x1b" not in output + errors
    (line,) = output.splitlines()  # what Ray says of it is in log.txt alone
    assert "Ray on this machine is lost: its process raylet has died" in line
    assert f"outerloop train --resume {folder.name}" in line
