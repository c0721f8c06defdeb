"""Tracking while the server, the process, the disk or the one who waits gives up."""

import json
import logging
import math
import os
import shutil
import signal
import socket
import threading
import time

import pytest

from pipeline.interrupt import StopRequest
from pipeline.tracking import Tracker
from tests.pipeline.mlflow_for_tests import (
    MODEL_FILES,
    assert_has_everything,
    curve,
    expected_curve,
    log_everything,
    log_steps,
    run_folder,
)
from tests.processes import kill_after, start, wait_until

LOGS_FOREVER = """
import sys, pathlib, time
from pipeline import delivery, tracking
delivery.DELIVER_EVERY_S = 0.02
run_folder = pathlib.Path(sys.argv[2])
tracker = tracking.Tracker(sys.argv[1], "killed", run_folder)
step = 0
while True:
    tracker.log_metrics(step, {"train/loss": step / 3, "outer/grad_norm": step / 7})
    step += 1
    if (run_folder / "tracking" / "delivered.json").exists():
        print(step, flush=True)
    time.sleep(0.001)
"""

LOGS_UP_TO = """
import logging, pathlib, sys
from pipeline.tracking import Tracker
logging.basicConfig(level=logging.WARNING)
tracker = Tracker(sys.argv[1], "lost", pathlib.Path(sys.argv[2]))
for step in range(int(sys.argv[3])):
    tracker.log_metrics(step, {"train/loss": step / 3})
assert tracker.finish("FINISHED", timeout_s=60) == 0
print(tracker.mlflow_run_id)
"""

RUNS_OUT_OF_DISK = """
import pathlib, resource, sys
from pipeline.errors import RunFailedError
from pipeline.tracking import Tracker
tracker = Tracker("http://127.0.0.1:9", "full", pathlib.Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    try:
        tracker.log_metrics(0, {"train/loss": 1.0})
    except RunFailedError as error:
        print(error)
        raise ZeroDivisionError("on its way out") from None
    finally:
        print(tracker.finish("FAILED", timeout_s=0.1))
except ZeroDivisionError as error:
    print(error)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_a_tracker_killed_while_it_sends_loses_and_doubles_nothing(database, tmp_path, delay_s):
    folder = run_folder(tmp_path)
    logged = int(kill_after(30, delay_s, LOGS_FOREVER, database, folder)[-1])
    tracker = Tracker(database, "killed", folder)
    log_steps(tracker, range(logged + 10))
    assert tracker.finish("FINISHED") == 0
    found = curve(database, tracker.mlflow_run_id)
    assert found == expected_curve(len(found))
    assert len(found) >= logged + 10


def test_a_store_that_was_lost_gets_every_point_and_what_else_there_is_anew(tmp_path):
    folder, store = run_folder(tmp_path), tmp_path / "mlflow.db"
    for last in (4, 9):  # each in a process of its own: MLflow never looks again for a store
        process = start(LOGS_UP_TO, f"sqlite:///{store}", folder, last)
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        ids = said.split()
        if last == 4:
            first = ids
            store.unlink()
    assert "no longer has this run: it is made there anew" in errors
    assert ids != first
    assert curve(f"sqlite:///{store}", ids[0]) == expected_curve(9)


@pytest.mark.usefixtures("often")
def test_a_server_that_is_killed_and_comes_back_has_each_point_once(server, tmp_path, caplog):
    folder = run_folder(tmp_path)
    tracker = Tracker(server.uri, "server killed", folder)
    delivered = folder / "tracking" / "delivered.json"
    log_steps(tracker, range(100))
    wait_until(delivered.exists)
    # Some points are on their way while the server dies.
    log_steps(tracker, range(100, 2000))
    server.kill()
    log_steps(tracker, range(2000, 2500))
    wait_until(lambda: "training goes on" in caplog.text)
    server.start()
    log_steps(tracker, range(2500, 3000))
    size = (folder / "tracking" / "metrics.jsonl").stat().st_size
    wait_until(lambda: json.loads(delivered.read_text())["offset"] == size)
    assert tracker.finish("FINISHED") == 0
    assert curve(server.uri, tracker.mlflow_run_id) == expected_curve(3000)


def test_training_goes_on_without_a_server_and_all_is_delivered_later(
    server, tmp_path, caplog, often
):
    caplog.set_level(logging.INFO)
    with socket.socket() as nobody:  # bound, not listening: every connection is refused
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        folder = run_folder(tmp_path)
        start = time.monotonic()
        tracker = Tracker(away, "away", folder)
        log_everything(tracker, folder)
        log_steps(tracker, range(500))
        assert time.monotonic() - start < 10
        assert tracker.mlflow_run_id is None
        undelivered = tracker.finish("FINISHED", timeout_s=60)
    assert undelivered == 507
    assert f"MLflow at {away}: connection refused; training goes on" in caplog.text
    assert "has not taken 500 metric points and 7 other items yet" in caplog.text
    # A resumed run removes old checkpoints, and the model's files with them.
    for name in MODEL_FILES:
        (folder / name).unlink()
    later = Tracker(server.uri, "away", folder)
    assert later.finish(None, timeout_s=120) == 0
    assert "delivered 500 metric points and 7 other items that were waiting" in caplog.text
    assert curve(server.uri, later.mlflow_run_id) == expected_curve(500)
    assert_has_everything(server.uri, later.mlflow_run_id)
    assert list((folder / "tracking" / "pending").iterdir()) == []


def test_a_server_that_never_answers_does_not_hold_up_the_end(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        tracker = Tracker(
            f"http://127.0.0.1:{silent.getsockname()[1]}", "silent", run_folder(tmp_path)
        )
        log_steps(tracker, range(5))
        start = time.monotonic()
        assert tracker.finish("FINISHED", timeout_s=0.5) == 6
        assert time.monotonic() - start < 5


def test_ctrl_c_ends_the_wait_for_a_server_that_never_answers(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        tracker = Tracker(
            f"http://127.0.0.1:{silent.getsockname()[1]}", "silent", run_folder(tmp_path)
        )
        log_steps(tracker, range(5))
        with StopRequest().listening() as stop:
            stop.begin()
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
            undelivered = tracker.finish("FINISHED", math.inf, lambda: bool(stop.signal_name))
        assert undelivered == 6


def test_a_full_disk_at_the_end_is_a_warning_and_replaces_no_error(tmp_path):
    process = start(RUNS_OUT_OF_DISK, run_folder(tmp_path))
    output, warnings = process.communicate()
    first, undelivered, last = output.splitlines()
    assert "cannot be written: File too large" in first
    assert (undelivered, last) == ("0", "on its way out")
    # The status, and the point that its log still tried to write.
    assert warnings.count("cannot be written: File too large; make room") == 2
    assert "Traceback" not in warnings


def test_a_folder_that_is_gone_at_the_end_is_a_warning(tmp_path, caplog):
    folder = run_folder(tmp_path)
    tracker = Tracker("http://127.0.0.1:9", "gone", folder)
    shutil.rmtree(folder / "tracking")
    (folder / "tracking").write_text("in its place")
    assert tracker.finish("FAILED", timeout_s=60) == 0
    assert f"tracking in {folder}: cannot be written: Not a directory" in caplog.text
